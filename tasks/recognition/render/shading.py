"""Light from a surface to the camera: Cook-Torrance with GGX for lamps, filtered maps for the room around.

Sources: Walter et al. 2007, "Microfacet Models for Refraction through Rough Surfaces" (GGX); Heitz 2014,
"Understanding the Masking-Shadowing Function" (Smith, correlated); Schlick 1994 (Fresnel); Karis 2014, "Physically
Based Shading on Mobile" (the room's share of the reflection); Lagarde, de Rousiers 2014, "Moving Frostbite to PBR"
(occlusion of reflections).
"""

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import kernel
from tasks.recognition.render.materials import CAST, NONE

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

F = np.float32
ZERO, HALF, ONE, TWO, FOUR = F(0), F(0.5), F(1), F(2), F(4)
PI = F(np.pi)


@kernel
def place(
    dirs: Floats,
    face: Ints,
    u: Floats,
    v: Floats,
    t: Floats,
    rows: Ints,
    corners: Floats,
    turn: Floats,
    shift: Floats,
    size: np.float32,
    points: Floats,
    normals: Floats,
    local: Floats,
) -> None:
    """Write where rays hit a solid, camera frame, and its normals there, facing the camera.

    Args:
        dirs: (N, 3) rays from the camera.
        face, u, v, t: (N,) of the hits.
        rows: (M,) which of the N hit this solid.
        corners: (F, 3, 3) normals of the solid.
        turn, shift, size: camera = size * turn @ local + shift.
        points, normals, local: (N, 3), to be written; local is in the solid's own frame.
    """
    for r in range(len(rows)):
        i = rows[r]
        f, b, c = face[i], u[i], v[i]
        a = ONE - b - c
        x = a * corners[f, 0, 0] + b * corners[f, 1, 0] + c * corners[f, 2, 0]
        y = a * corners[f, 0, 1] + b * corners[f, 1, 1] + c * corners[f, 2, 1]
        z = a * corners[f, 0, 2] + b * corners[f, 1, 2] + c * corners[f, 2, 2]
        nx = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
        ny = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
        nz = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
        norm = ONE / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-20))
        if nx * dirs[i, 0] + ny * dirs[i, 1] + nz * dirs[i, 2] > ZERO:
            norm = -norm
        normals[i, 0], normals[i, 1], normals[i, 2] = nx * norm, ny * norm, nz * norm
        px, py, pz = t[i] * dirs[i, 0], t[i] * dirs[i, 1], t[i] * dirs[i, 2]
        points[i, 0], points[i, 1], points[i, 2] = px, py, pz
        qx, qy, qz = (px - shift[0]) / size, (py - shift[1]) / size, (pz - shift[2]) / size
        local[i, 0] = turn[0, 0] * qx + turn[1, 0] * qy + turn[2, 0] * qz
        local[i, 1] = turn[0, 1] * qx + turn[1, 1] * qy + turn[2, 1] * qz
        local[i, 2] = turn[0, 2] * qx + turn[1, 2] * qy + turn[2, 2] * qz


@kernel
def _hash(x: np.int32, y: np.int32, z: np.int32) -> np.float32:
    """Return a number from 0 to 1 that belongs to a point of the grid."""
    h = np.uint32(x) * np.uint32(73856093) ^ np.uint32(y) * np.uint32(19349663) ^ np.uint32(z) * np.uint32(83492791)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    return F((h >> np.uint32(8)) & np.uint32(0xFFFF)) * F(1 / 65535)


@kernel
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


@kernel
def roughen(
    rows: Ints, local: Floats, turn: Floats, material: Floats, scratch: Floats, dirs: Floats, normals: Floats
) -> None:
    """Tilt the normals of a solid by its relief: cast skin all over, or the marks of a tool across one axis.

    Args:
        rows: (M,) which of the N belong to the solid.
        local: (N, 3) in its own frame, diameter 1.
        turn: (3, 3) from its frame to the camera's.
        material: (N_VALUES,).
        scratch: (3,) unit axis of the marks, in its own frame.
        dirs: (N, 3) rays from the camera.
        normals: (N, 3) in the camera frame, changed.
    """
    kind, height, waves = material[6], material[7], material[8]
    if kind == NONE:
        return
    for r in range(len(rows)):
        i = rows[r]
        x, y, z = local[i, 0] * waves, local[i, 1] * waves, local[i, 2] * waves
        if kind == CAST:
            dx, dy, dz = _slopes(x, y, z)
        else:
            along = x * scratch[0] + y * scratch[1] + z * scratch[2]
            cell = np.floor(along)
            one = np.int32(cell)
            tilt = _hash(one, np.int32(7), np.int32(3)) - HALF + (_hash(one, np.int32(1), np.int32(5)) - HALF) * HALF
            dx, dy, dz = tilt * scratch[0], tilt * scratch[1], tilt * scratch[2]
        dx, dy, dz = dx * height, dy * height, dz * height
        nx = normals[i, 0] - turn[0, 0] * dx - turn[0, 1] * dy - turn[0, 2] * dz
        ny = normals[i, 1] - turn[1, 0] * dx - turn[1, 1] * dy - turn[1, 2] * dz
        nz = normals[i, 2] - turn[2, 0] * dx - turn[2, 1] * dy - turn[2, 2] * dz
        norm = ONE / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-20))
        nx, ny, nz = nx * norm, ny * norm, nz * norm
        if nx * dirs[i, 0] + ny * dirs[i, 1] + nz * dirs[i, 2] < ZERO:
            normals[i, 0], normals[i, 1], normals[i, 2] = nx, ny, nz


@kernel
def _texel(x: np.float32, y: np.float32, z: np.float32, side: np.float32) -> tuple[np.float32, np.float32]:
    """Return column and row on an octahedral map of a direction of any length."""
    norm = ONE / (abs(x) + abs(y) + abs(z) + F(1e-20))
    x, y, z = x * norm, y * norm, z * norm
    if z < ZERO:
        ax, ay = abs(x), abs(y)
        x, y = (ONE - ay) * (ONE if x >= ZERO else -ONE), (ONE - ax) * (ONE if y >= ZERO else -ONE)
    limit = side - F(1.001)
    column = min(max((x * HALF + HALF) * side - HALF, ZERO), limit)
    row = min(max((y * HALF + HALF) * side - HALF, ZERO), limit)
    return column, row


@kernel
def shade(
    points: Floats,
    normals: Floats,
    owner: Ints,
    albedo: Floats,
    materials: Floats,
    open_: Floats,
    lit: Floats,
    lamp: Floats,
    lamp_color: Floats,
    room: Floats,
    matt: Floats,
    levels: Floats,
    to_room: Floats,
    colors: Floats,
) -> None:
    """Write the radiance (N, 3) that surfaces send to the camera, which is at the origin.

    Args:
        points, normals: (N, 3) camera frame, normals facing the camera.
        owner: (N,) row of the material; the last row is the ground's, and takes its colour from `albedo` (N, 3).
        materials: (M, N_VALUES).
        open_: (N,) share of the sky that is not hidden by other surfaces.
        lit: (N,) share of the lamp that is seen.
        lamp: (3,) unit direction to the lamp, camera frame; lamp_color: (3,) irradiance at right angles over pi.
        room: (L, S, S, 3), reflected by surfaces of the roughness `levels` (L,); matt: (S, S, 3).
        to_room: (3, 3) from the camera frame to the room's.
        colors: to be written.
    """
    side = F(room.shape[1])
    n_levels = len(levels)
    ground = len(materials) - 1
    for i in range(len(points)):
        m = materials[owner[i]]
        red, green, blue = m[0], m[1], m[2]
        if owner[i] == ground:
            red, green, blue = albedo[i, 0], albedo[i, 1], albedo[i, 2]
        metallic, rough, f0 = m[3], m[4], m[5]
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        norm = -ONE / np.sqrt(px * px + py * py + pz * pz + F(1e-20))
        vx, vy, vz = px * norm, py * norm, pz * norm
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        nv = max(nx * vx + ny * vy + nz * vz, F(0.02))
        # What the room sends by reflection, between the two levels next to the roughness.
        rx, ry, rz = TWO * nv * nx - vx, TWO * nv * ny - vy, TWO * nv * nz - vz
        column, row = _texel(
            to_room[0, 0] * rx + to_room[0, 1] * ry + to_room[0, 2] * rz,
            to_room[1, 0] * rx + to_room[1, 1] * ry + to_room[1, 2] * rz,
            to_room[2, 0] * rx + to_room[2, 1] * ry + to_room[2, 2] * rz,
            side,
        )
        level = 0
        while level < n_levels - 2 and levels[level + 1] < rough:
            level += 1
        mix = min(max((rough - levels[level]) / (levels[level + 1] - levels[level]), ZERO), ONE)
        c0, r0 = np.int32(column), np.int32(row)
        fc, fr = column - F(c0), row - F(r0)
        w00, w01, w10, w11 = (ONE - fr) * (ONE - fc), (ONE - fr) * fc, fr * (ONE - fc), fr * fc
        low, high = room[level], room[level + 1]
        # What it sends onto a matt surface.
        column, row = _texel(
            to_room[0, 0] * nx + to_room[0, 1] * ny + to_room[0, 2] * nz,
            to_room[1, 0] * nx + to_room[1, 1] * ny + to_room[1, 2] * nz,
            to_room[2, 0] * nx + to_room[2, 1] * ny + to_room[2, 2] * nz,
            side,
        )
        dc, dr = np.int32(column + HALF), np.int32(row + HALF)
        # Karis: the reflection's factor of f0, and the one that all surfaces add at grazing angles.
        a0, a1 = ONE - rough, F(0.0425) - F(0.0275) * rough
        b0 = min(a0 * a0, F(2) ** (F(-9.28) * nv)) * a0 + a1
        scale, bias = F(-1.04) * b0 + F(1.04) - F(0.572) * rough + F(0.022) * rough, F(1.04) * b0 + F(0.022) * rough
        bias = max(bias - F(0.04), ZERO)
        sky = open_[i]
        seen = min(max((nv + sky) ** (F(2) ** (F(-16) * rough - ONE)) - ONE + sky, ZERO), ONE)
        # The lamp.
        nl = nx * lamp[0] + ny * lamp[1] + nz * lamp[2]
        spec, share = ZERO, ZERO
        fresnel = ZERO
        if nl > ZERO and lit[i] > ZERO:
            hx, hy, hz = vx + lamp[0], vy + lamp[1], vz + lamp[2]
            half = ONE / np.sqrt(hx * hx + hy * hy + hz * hz + F(1e-20))
            nh = (nx * hx + ny * hy + nz * hz) * half
            vh = (vx * hx + vy * hy + vz * hz) * half
            a2 = max(rough * rough, F(0.03)) ** 2  # a lamp is no point
            d = nh * nh * (a2 - ONE) + ONE
            smith = nl * np.sqrt(nv * nv * (ONE - a2) + a2) + nv * np.sqrt(nl * nl * (ONE - a2) + a2)
            spec = a2 / (d * d) * HALF / max(smith, F(1e-4)) * nl * lit[i]
            q = ONE - vh
            fresnel = q * q * q * q * q
            share = nl * lit[i]
        for c in range(3):
            base = red if c == 0 else (green if c == 1 else blue)
            f = f0 + (base - f0) * metallic
            first = (
                w00 * low[r0, c0, c]
                + w01 * low[r0, c0 + 1, c]
                + w10 * low[r0 + 1, c0, c]
                + w11 * low[r0 + 1, c0 + 1, c]
            )
            last = (
                w00 * high[r0, c0, c]
                + w01 * high[r0, c0 + 1, c]
                + w10 * high[r0 + 1, c0, c]
                + w11 * high[r0 + 1, c0 + 1, c]
            )
            mirrored = (first + (last - first) * mix) * (f * scale + bias) * seen
            scattered = base * (ONE - metallic) * (matt[dr, dc, c] * sky + share * lamp_color[c])
            colors[i, c] = mirrored + scattered + spec * (f + (ONE - f) * fresnel) * lamp_color[c]
