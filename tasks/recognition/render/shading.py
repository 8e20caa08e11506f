"""Light from a surface to the camera: Cook-Torrance with GGX for lamps, filtered maps for the room around.

Sources: Walter et al. 2007, "Microfacet Models for Refraction through Rough Surfaces" (GGX); Hammon 2017, "PBR Diffuse
Lighting for GGX+Smith Microsurfaces" (masking); Schlick 1994 (Fresnel); Karis 2014, "Physically Based Shading on
Mobile" (the room's share of the reflection).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.geometry.jit import F, Floats, Ints, Rows, U, fused
from tasks.recognition.render.composition import Ground, Light, Placed
from tasks.recognition.render.hits import Hits
from tasks.recognition.render.materials import N_VALUES, NONE, roughen
from tasks.recognition.render.studio import MAP_SIDE, ROUGHNESS

ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)
_N_ANGLES = 33
_BLOCK = 128
"""Rows for which arithmetic is done in one loop without branches, which the compiler turns into vector instructions."""
_N_BUFFERED = 15
_PX, _PY, _PZ, _NX, _NY, _NZ, _ROUGH, _SHARE, _ANGLE, _MATT, _TEXEL, _RIGHT, _BELOW, _GLOSS, _FRESNEL = (
    U(k * _BLOCK) for k in range(_N_BUFFERED)
)
"""Places in a block's buffer; at constant distances, or the compiler would not."""
_FALLING = (2 ** (-9.28 * np.linspace(0, 1, _N_ANGLES, dtype=np.float32)))[None]


@dataclass(frozen=True, slots=True)
class Palette:
    """What surfaces look like under a light: those of some solids, and of the ground after them."""

    objects: Sequence[Placed]
    light: Light
    materials: Floats  # (M, N_VALUES)
    reflection: Floats  # (M, N_ANGLES, 2)
    rooms: Floats  # (M - 1, T, 3), what each solid's material reflects
    texture: Floats  # (S, S, 3) of the ground
    axes: Floats  # (2, 4), as `Ground.axes`
    turns: Floats  # (M - 1, 3, 3) of the solids, as in `Placed`; shifts, sizes and scratches as well
    shifts: Floats
    sizes: Floats
    scratches: Floats

    @classmethod
    def of(cls, objects: Sequence[Placed], ground: Ground | None, light: Light) -> "Palette":
        """Return the palette of a drawing."""
        last = ground.material if ground is not None else np.zeros(N_VALUES, np.float32)
        materials = np.stack([*(placed.material for placed in objects), last])
        rough = materials[:, 4]
        texture = ground.texture if ground is not None else np.zeros((1, 1, 3), np.float32)
        axes = ground.axes() if ground is not None else np.zeros((2, 4), np.float32)
        rooms = _mirrored(light.room, rough[:-1])
        turns, shifts = np.stack([placed.turn for placed in objects]), np.stack([placed.shift for placed in objects])
        sizes = np.array([placed.size for placed in objects], np.float32)
        scratches = np.stack([placed.scratch for placed in objects])
        reflection = _reflection(rough)
        return cls(objects, light, materials, reflection, rooms, texture, axes, turns, shifts, sizes, scratches)

    def paint(self, rows: Rows, hits: Hits, sky: Floats, lamp: Floats, colors: Floats) -> None:
        """Write the radiance (N, 3) that some rows see.

        Args:
            rows: (M,) that hit something.
            sky, lamp: (N,) shares of sky and lamp that are open to what is hit.
        """
        if np.any(self.materials[:, 6] != NONE):
            roughen(
                *(rows, hits.owner, hits.points, self.turns, self.shifts, self.sizes),
                *(self.materials, self.scratches, hits.normals),
            )
        light = self.light
        _shade(
            *(rows, hits.points, hits.normals, hits.owner, sky, lamp, self.materials, self.reflection),
            *(
                self.texture,
                self.axes,
                light.lamp,
                light.color,
                self.rooms,
                light.matt.reshape(-1, 3),
                light.to_room,
                colors,
            ),
        )


def _mirrored(room: Floats, rough: Floats) -> Floats:
    """Return the map (M, T, 3) of what surfaces of each roughness (M,) reflect, between the two next to it."""
    at = np.interp(rough, ROUGHNESS, np.arange(len(ROUGHNESS)))
    low = np.minimum(at.astype(np.int64), len(ROUGHNESS) - 2)
    mix = (at - low).astype(np.float32)[:, None, None, None]
    return np.ascontiguousarray(room[low] + mix * (room[low + 1] - room[low])).reshape(len(rough), -1, 3)


def _reflection(rough: Floats) -> Floats:
    """Return of each roughness (M,) what an even room reflects, (M, N_ANGLES, 2): factor of f0, and what is added.

    Of N_ANGLES cosines of the angle of sight, from 0 to 1. Source: Karis 2014.
    """
    r = rough[:, None]
    a = np.minimum((1 - r) ** 2, _FALLING) * (1 - r) + 0.0425 - 0.0275 * r
    factor, added = -1.04 * a + 1.04 - 0.572 * r + 0.022 * r, 1.04 * a - 0.04 + 0.022 * r
    return np.stack([factor, np.maximum(added, 0)], axis=-1).astype(np.float32)


@fused
def _fold(x: np.float32, y: np.float32, z: np.float32, turn: Floats) -> tuple[np.float32, np.float32]:
    """Return across and down, -1 to 1, on an octahedral map of a direction of any length in the camera's frame."""
    rx = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
    ry = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
    rz = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    norm = ONE / (abs(rx) + abs(ry) + abs(rz) + F(1e-20))
    rx, ry = rx * norm, ry * norm
    fx = ONE - abs(ry) if rx >= ZERO else abs(ry) - ONE
    fy = ONE - abs(rx) if ry >= ZERO else abs(rx) - ONE
    return (fx if rz < ZERO else rx), (fy if rz < ZERO else ry)


@fused
def surface_color(
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
        rooms: (M - 1, T, 3), what each solid's material reflects; matt: (T, 3), what a white one sends; maps of
            MAP_SIDE rows.
    """
    buffer = np.zeros(_N_BUFFERED * _BLOCK, np.float32)
    first, total = U(0), U(len(rows))
    while first < total:
        n = min(total - first, U(_BLOCK))
        some = rows[first : first + n]
        for k in range(n):
            i = U(some[k])
            buffer[_PX + k], buffer[_PY + k], buffer[_PZ + k] = points[i, 0], points[i, 1], points[i, 2]
            buffer[_NX + k], buffer[_NY + k], buffer[_NZ + k] = normals[i, 0], normals[i, 1], normals[i, 2]
            buffer[_ROUGH + k], buffer[_SHARE + k] = materials[U(owner[i]), U(4)], lit[i]
        _reckon(buffer, lamp, to_room)
        _mix(some, points, owner, sky, materials, reflection, texture, axes, lamp_color, rooms, matt, buffer, colors)
        first += n


@fused
def _reckon(buffer: Floats, lamp: Floats, to_room: Floats) -> None:
    """Write what follows from point, normal and roughness, for all of a block: no branches, no tables."""
    middle, limit = F(MAP_SIDE / 2 - 0.5), F(MAP_SIDE - 1.001)
    lx, ly, lz = lamp[0], lamp[1], lamp[2]
    for k in range(U(_BLOCK)):
        px, py, pz = buffer[_PX + k], buffer[_PY + k], buffer[_PZ + k]
        nx, ny, nz = buffer[_NX + k], buffer[_NY + k], buffer[_NZ + k]
        norm = -ONE / np.sqrt(px * px + py * py + pz * pz + F(1e-20))
        vx, vy, vz = px * norm, py * norm, pz * norm
        nv = min(max(nx * vx + ny * vy + nz * vz, F(0.02)), ONE)
        buffer[_ANGLE + k] = nv * F(_N_ANGLES - 1)
        # Where the maps have what the room sends onto a matt surface, and by reflection.
        across, down = _fold(nx, ny, nz, to_room)
        column = min(max(across * F(MAP_SIDE / 2) + middle, ZERO), limit)
        row = min(max(down * F(MAP_SIDE / 2) + middle, ZERO), limit)
        buffer[_MATT + k] = np.floor(row + HALF) * F(MAP_SIDE) + np.floor(column + HALF)
        across, down = _fold(TWO * nv * nx - vx, TWO * nv * ny - vy, TWO * nv * nz - vz, to_room)
        column = min(max(across * F(MAP_SIDE / 2) + middle, ZERO), limit)
        row = min(max(down * F(MAP_SIDE / 2) + middle, ZERO), limit)
        left, top = np.floor(column), np.floor(row)
        buffer[_TEXEL + k], buffer[_RIGHT + k], buffer[_BELOW + k] = top * F(MAP_SIDE) + left, column - left, row - top
        # The lamp.
        nl = max(nx * lx + ny * ly + nz * lz, ZERO)
        share = nl * buffer[_SHARE + k]
        hx, hy, hz = vx + lx, vy + ly, vz + lz
        half = ONE / np.sqrt(hx * hx + hy * hy + hz * hz + F(1e-20))
        nh = (nx * hx + ny * hy + nz * hz) * half
        away = ONE - (vx * hx + vy * hy + vz * hz) * half
        alpha = max(buffer[_ROUGH + k] * buffer[_ROUGH + k], F(0.03))  # a lamp is no point
        square = alpha * alpha
        d = nh * nh * (square - ONE) + ONE
        masked = TWO * nl * nv * (ONE - alpha) + (nl + nv) * alpha  # Hammon
        fresnel = away * away
        buffer[_SHARE + k] = share
        buffer[_GLOSS + k] = square * HALF * share / (d * d * max(masked, F(1e-4)))
        buffer[_FRESNEL + k] = fresnel * fresnel * away


@fused
def _mix(
    rows: Rows,
    points: Floats,
    owner: Ints,
    sky: Floats,
    materials: Floats,
    reflection: Floats,
    texture: Floats,
    axes: Floats,
    lamp_color: Floats,
    rooms: Floats,
    matt: Floats,
    buffer: Floats,
    colors: Floats,
) -> None:
    """Write the radiance of a block's rows from what was reckoned, and from maps and tables."""
    ground = len(materials) - 1
    for k in range(U(len(rows))):
        i = U(rows[k])
        own = U(owner[i])
        m, even = materials[own], matt[U(buffer[_MATT + k])]
        if owner[i] == ground:
            base = surface_color(texture, axes, points[i, 0], points[i, 1], points[i, 2])
            image = (even[0], even[1], even[2])  # it is too rough to show another
        else:
            base = (m[0], m[1], m[2])
            image = _between(rooms[own], U(buffer[_TEXEL + k]), buffer[_RIGHT + k], buffer[_BELOW + k])
        angle, open_ = buffer[_ANGLE + k], sky[i]
        at = U(min(angle, F(_N_ANGLES - 2)))
        part, low, high = angle - F(at), reflection[own, at], reflection[own, at + U(1)]
        factor, added = (low[0] + part * (high[0] - low[0])) * open_, (low[1] + part * (high[1] - low[1])) * open_
        share, gloss, fresnel = buffer[_SHARE + k], buffer[_GLOSS + k], buffer[_FRESNEL + k]
        matte, straight, grazing = ONE - m[3], gloss * (ONE - fresnel), gloss * fresnel
        for c in range(3):
            f = m[5] + (base[c] - m[5]) * m[3]
            mirrored = image[c] * (f * factor + added)
            scattered = base[c] * matte * (even[c] * open_ + share * lamp_color[c])
            colors[i, c] = mirrored + scattered + (f * straight + grazing) * lamp_color[c]


@fused
def _between(
    room: Floats, texel: np.uint64, right: np.float32, below: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """Return the light of a map (T, 3) between a texel, the one right of it, and those below both."""
    w00, w01, w10, w11 = (ONE - below) * (ONE - right), (ONE - below) * right, below * (ONE - right), below * right
    p00, p01 = room[texel], room[texel + U(1)]
    p10, p11 = room[texel + U(MAP_SIDE)], room[texel + U(MAP_SIDE + 1)]
    return (
        w00 * p00[0] + w01 * p01[0] + w10 * p10[0] + w11 * p11[0],
        w00 * p00[1] + w01 * p01[1] + w10 * p10[1] + w11 * p11[1],
        w00 * p00[2] + w01 * p01[2] + w10 * p10[2] + w11 * p11[2],
    )
