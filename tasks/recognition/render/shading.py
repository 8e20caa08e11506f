"""Light from a surface to the camera: Cook-Torrance with GGX for lamps, filtered maps for the room around.

Sources: Walter et al. 2007, "Microfacet Models for Refraction through Rough Surfaces" (GGX); Hammon 2017, "PBR Diffuse
Lighting for GGX+Smith Microsurfaces" (masking); Schlick 1994 (Fresnel); Karis 2014, "Physically Based Shading on
Mobile" (the room's share of the reflection).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.recognition.render.composition import Ground, Light, Placed
from tasks.recognition.render.hits import Hits
from tasks.recognition.render.materials import CAST, N_VALUES, NONE
from tasks.recognition.render.studio import ROUGHNESS

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Rows = NDArray[np.uint32]

F = np.float32
U = np.uint64
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)
_N_ANGLES = 33


@fused
def _hash(x: np.int32, y: np.int32, z: np.int32) -> np.float32:
    """Return a number from 0 to 1 that belongs to a point of the grid."""
    h = np.uint32(x) * np.uint32(73856093) ^ np.uint32(y) * np.uint32(19349663) ^ np.uint32(z) * np.uint32(83492791)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    return F((h >> np.uint32(8)) & np.uint32(0xFFFF)) * F(1 / 65535)


@fused
def _slopes(x: np.float32, y: np.float32, z: np.float32) -> tuple[np.float32, np.float32, np.float32]:
    """Return the slopes of smooth noise at a point: the differences of the eight corners of its cell."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = np.int32(fx), np.int32(fy), np.int32(fz)
    a, b, c = x - fx, y - fy, z - fz
    h000, h100, h010, h110 = _hash(i, j, k), _hash(i + 1, j, k), _hash(i, j + 1, k), _hash(i + 1, j + 1, k)
    h001, h101 = _hash(i, j, k + 1), _hash(i + 1, j, k + 1)
    h011, h111 = _hash(i, j + 1, k + 1), _hash(i + 1, j + 1, k + 1)
    ra, rb, rc = ONE - a, ONE - b, ONE - c
    dx = (h100 - h000) * rb * rc + (h110 - h010) * b * rc + (h101 - h001) * rb * c + (h111 - h011) * b * c
    dy = (h010 - h000) * ra * rc + (h110 - h100) * a * rc + (h011 - h001) * ra * c + (h111 - h101) * a * c
    dz = (h001 - h000) * ra * rb + (h101 - h100) * a * rb + (h011 - h010) * ra * b + (h111 - h110) * a * b
    return dx, dy, dz


@dataclass(frozen=True, slots=True)
class Palette:
    """What surfaces look like under a light: those of some solids, and of the ground after them."""

    objects: Sequence[Placed]
    light: Light
    materials: Floats  # (M, N_VALUES)
    reflection: Floats  # (M, N_ANGLES, 2)
    rooms: Floats  # (M - 1, S, S, 3), what each solid's material reflects
    texture: Floats  # (S, S, 3) of the ground
    axes: Floats  # (2, 4), as `Ground.axes`

    @classmethod
    def of(cls, objects: Sequence[Placed], ground: Ground | None, light: Light) -> "Palette":
        """Return the palette of a drawing."""
        last = ground.material if ground is not None else np.zeros(N_VALUES, np.float32)
        materials = np.stack([*(placed.material for placed in objects), last])
        rough = materials[:, 4]
        texture = ground.texture if ground is not None else np.zeros((1, 1, 3), np.float32)
        axes = ground.axes() if ground is not None else np.zeros((2, 4), np.float32)
        rooms = _mirrored(light.room, rough[:-1])
        return cls(objects, light, materials, _reflection(rough), rooms, texture, axes)

    def paint(self, rows: Rows, hits: Hits, regions: Sequence[Rows], sky: Floats, lamp: Floats, colors: Floats) -> None:
        """Write the radiance (N, 3) that some rows see.

        Args:
            rows: (M,) that hit something.
            regions: the rows that may hit each solid.
            sky, lamp: (N,) shares of sky and lamp that are open to what is hit.
        """
        for number, (placed, region) in enumerate(zip(self.objects, regions, strict=True)):
            _roughen(
                *(region, number, hits.owner, hits.points, placed.turn, placed.shift, F(placed.size)),
                *(placed.material, placed.scratch, hits.normals),
            )
        light = self.light
        _shade(
            *(rows, hits.points, hits.normals, hits.owner, sky, lamp, self.materials, self.reflection),
            *(self.texture, self.axes, light.lamp, light.color, self.rooms, light.matt, light.to_room, colors),
        )


def _mirrored(room: Floats, rough: Floats) -> Floats:
    """Return the map (M, S, S, 3) of what surfaces of each roughness (M,) reflect, between the two next to it."""
    at = np.interp(rough, ROUGHNESS, np.arange(len(ROUGHNESS)))
    low = np.minimum(at.astype(np.int64), len(ROUGHNESS) - 2)
    mix = (at - low).astype(np.float32)[:, None, None, None]
    return np.ascontiguousarray(room[low] + mix * (room[low + 1] - room[low]))


def _reflection(rough: Floats) -> Floats:
    """Return of each roughness (M,) what an even room reflects, (M, N_ANGLES, 2): factor of f0, and what is added.

    Of N_ANGLES cosines of the angle of sight, from 0 to 1. Source: Karis 2014.
    """
    r, nv = rough[:, None], np.linspace(0, 1, _N_ANGLES, dtype=np.float32)[None]
    a = np.minimum((1 - r) ** 2, 2 ** (-9.28 * nv)) * (1 - r) + 0.0425 - 0.0275 * r
    factor, added = -1.04 * a + 1.04 - 0.572 * r + 0.022 * r, 1.04 * a - 0.04 + 0.022 * r
    return np.stack([factor, np.maximum(added, 0)], axis=-1).astype(np.float32)


@fused
def _roughen(
    rows: Rows,
    number: int,
    owner: Ints,
    points: Floats,
    turn: Floats,
    shift: Floats,
    size: np.float32,
    material: Floats,
    scratch: Floats,
    normals: Floats,
) -> None:
    """Tilt the normals of a solid by its relief: cast skin all over, or the marks of a tool across one axis."""
    kind, height = material[6], material[7]
    if kind == NONE:
        return
    waves = material[8] / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        if owner[i] != number:
            continue
        x, y, z = points[i, 0] - shift[0], points[i, 1] - shift[1], points[i, 2] - shift[2]
        px = (turn[0, 0] * x + turn[1, 0] * y + turn[2, 0] * z) * waves
        py = (turn[0, 1] * x + turn[1, 1] * y + turn[2, 1] * z) * waves
        pz = (turn[0, 2] * x + turn[1, 2] * y + turn[2, 2] * z) * waves
        if kind == CAST:
            dx, dy, dz = _slopes(px, py, pz)
        else:
            cell = np.int32(np.floor(px * scratch[0] + py * scratch[1] + pz * scratch[2]))
            tilt = _hash(cell, np.int32(7), np.int32(3)) - HALF
            dx, dy, dz = tilt * scratch[0], tilt * scratch[1], tilt * scratch[2]
        dx, dy, dz = dx * height, dy * height, dz * height
        nx = normals[i, 0] - turn[0, 0] * dx - turn[0, 1] * dy - turn[0, 2] * dz
        ny = normals[i, 1] - turn[1, 0] * dx - turn[1, 1] * dy - turn[1, 2] * dz
        nz = normals[i, 2] - turn[2, 0] * dx - turn[2, 1] * dy - turn[2, 2] * dz
        norm = ONE / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-20))
        nx, ny, nz = nx * norm, ny * norm, nz * norm
        if nx * points[i, 0] + ny * points[i, 1] + nz * points[i, 2] < ZERO:
            normals[i, 0], normals[i, 1], normals[i, 2] = nx, ny, nz


@fused
def _texel(
    x: np.float32, y: np.float32, z: np.float32, turn: Floats, side: np.float32
) -> tuple[np.float32, np.float32]:
    """Return column and row on an octahedral map of a direction of any length in the camera's frame."""
    rx = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
    ry = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
    rz = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    norm = ONE / (abs(rx) + abs(ry) + abs(rz) + F(1e-20))
    rx, ry, rz = rx * norm, ry * norm, rz * norm
    if rz < ZERO:
        ax, ay = abs(rx), abs(ry)
        rx, ry = (ONE - ay) * (ONE if rx >= ZERO else -ONE), (ONE - ax) * (ONE if ry >= ZERO else -ONE)
    limit = side - F(1.001)
    column = min(max((rx * HALF + HALF) * side - HALF, ZERO), limit)
    row = min(max((ry * HALF + HALF) * side - HALF, ZERO), limit)
    return column, row


@fused
def _surface_color(
    texture: Floats, axes: Floats, x: np.float32, y: np.float32, z: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """Return the colour of a texture (S, S, 3) that repeats, S a power of two, at a point of the ground."""
    column = axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z + axes[0, 3]
    row = axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z + axes[1, 3]
    left, top = np.floor(column), np.floor(row)
    a, b = column - left, row - top
    last = np.int64(texture.shape[0] - 1)
    c0, r0 = U(np.int64(left) & last), U(np.int64(top) & last)
    c1, r1 = U((np.int64(left) + 1) & last), U((np.int64(top) + 1) & last)
    w00, w01, w10, w11 = (ONE - b) * (ONE - a), (ONE - b) * a, b * (ONE - a), b * a
    p00, p01, p10, p11 = texture[r0, c0], texture[r0, c1], texture[r1, c0], texture[r1, c1]
    return (
        w00 * p00[0] + w01 * p01[0] + w10 * p10[0] + w11 * p11[0],
        w00 * p00[1] + w01 * p01[1] + w10 * p10[1] + w11 * p11[1],
        w00 * p00[2] + w01 * p01[2] + w10 * p10[2] + w11 * p11[2],
    )


@fused
def _shade(
    rows: Rows,
    points: Floats,
    normals: Floats,
    owner: Ints,
    sky: Floats,
    lit: Floats,
    materials: Floats,
    reflection: Floats,
    texture: Floats,
    axes: Floats,
    lamp: Floats,
    lamp_color: Floats,
    rooms: Floats,
    matt: Floats,
    to_room: Floats,
    colors: Floats,
) -> None:
    """Write the radiance (N, 3) that some rows of surfaces send to the camera, which is at the origin.

    Args:
        points, normals: (N, 3) camera frame, normals facing the camera.
        owner: (N,) row of the material; the last one is the ground's, whose colour is the texture's.
        sky, lit: (N,) shares of sky and lamp that are open.
        materials: (M, N_VALUES); reflection: (M, N_ANGLES, 2).
        lamp: (3,) unit direction; lamp_color: (3,) irradiance at right angles over pi.
        rooms: (M - 1, S, S, 3), what each solid's material reflects; matt: (S, S, 3), what a white one sends.
    """
    side = F(matt.shape[0])
    ground = len(materials) - 1
    for r in range(U(len(rows))):
        i = U(rows[r])
        own = U(owner[i])
        m = materials[own]
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        red, green, blue = m[0], m[1], m[2]
        below = owner[i] == ground
        if below:
            red, green, blue = _surface_color(texture, axes, px, py, pz)
        metallic, rough, f0 = m[3], m[4], m[5]
        norm = -ONE / np.sqrt(px * px + py * py + pz * pz + F(1e-20))
        vx, vy, vz = px * norm, py * norm, pz * norm
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        nv = min(max(nx * vx + ny * vy + nz * vz, F(0.02)), ONE)
        # What the room sends onto a matt surface.
        column, row = _texel(nx, ny, nz, to_room, side)
        even = matt[U(row + HALF), U(column + HALF)]
        # What it sends by reflection; a ground shows nearly the same.
        w00, w01, w10, w11 = ZERO, ZERO, ZERO, ZERO
        c0, r0 = U(0), U(0)
        if not below:
            column, row = _texel(TWO * nv * nx - vx, TWO * nv * ny - vy, TWO * nv * nz - vz, to_room, side)
            fc, fr = np.floor(column), np.floor(row)
            c0, r0, fc, fr = U(fc), U(fr), column - fc, row - fr
            w00, w01, w10, w11 = (ONE - fr) * (ONE - fc), (ONE - fr) * fc, fr * (ONE - fc), fr * fc
        room = rooms[U(0) if below else own]
        c1, r1 = c0 + U(1), r0 + U(1)
        at = nv * F(_N_ANGLES - 1)
        k = U(min(at, F(_N_ANGLES - 2)))
        part = at - F(k)
        factor = reflection[own, k, 0] + part * (reflection[own, k + U(1), 0] - reflection[own, k, 0])
        added = reflection[own, k, 1] + part * (reflection[own, k + U(1), 1] - reflection[own, k, 1])
        open_ = sky[i]
        # The lamp.
        nl = nx * lamp[0] + ny * lamp[1] + nz * lamp[2]
        gloss, fresnel, share = ZERO, ZERO, ZERO
        if nl > ZERO and lit[i] > ZERO:
            share = nl * lit[i]
            hx, hy, hz = vx + lamp[0], vy + lamp[1], vz + lamp[2]
            half = ONE / np.sqrt(hx * hx + hy * hy + hz * hz + F(1e-20))
            nh = (nx * hx + ny * hy + nz * hz) * half
            away = ONE - (vx * hx + vy * hy + vz * hz) * half
            alpha = max(rough * rough, F(0.03))  # a lamp is no point
            square = alpha * alpha
            d = nh * nh * (square - ONE) + ONE
            masked = TWO * nl * nv * (ONE - alpha) + (nl + nv) * alpha  # Hammon
            gloss = square / (d * d) * HALF / max(masked, F(1e-4)) * share
            fresnel = away * away
            fresnel = fresnel * fresnel * away
        for c in range(3):
            base = red if c == 0 else (green if c == 1 else blue)
            f = f0 + (base - f0) * metallic
            image = even[c]
            if not below:
                image = w00 * room[r0, c0, c] + w01 * room[r0, c1, c] + w10 * room[r1, c0, c] + w11 * room[r1, c1, c]
            mirrored = image * (f * factor + added) * open_
            scattered = base * (ONE - metallic) * (even[c] * open_ + share * lamp_color[c])
            colors[i, c] = mirrored + scattered + gloss * (f + (ONE - f) * fresnel) * lamp_color[c]
