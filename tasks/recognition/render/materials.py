"""Materials by seed: metal, plastic and painted, as a physically based model describes them; and their relief.

Relief is tilted normals: cast skin all over, or the marks of a tool across one axis.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import F, Floats, Ints, Rows, U, fused
from tasks.recognition.params import Material

ZERO, HALF, ONE = F(0), F(0.5), F(1)
_BLOCK = 128
"""Rows whose noise is found in one loop without branches, which the compiler turns into vector instructions."""
_X, _Y, _Z = U(0), U(_BLOCK), U(2 * _BLOCK)  # places in a block's buffer: at constant distances, or it would not

N_VALUES = 9
"""Of a material: base colour r, g, b; metallic; roughness; reflectance f0; then of the relief: kind, height, waves."""
NONE, CAST, TURNED = 0.0, 1.0, 2.0

_METALS = np.array(
    [
        [0.56, 0.57, 0.58],  # iron, steel
        [0.91, 0.92, 0.92],  # aluminium
        [0.66, 0.61, 0.53],  # nickel
        [0.55, 0.56, 0.55],  # chromium
        [0.66, 0.67, 0.69],  # zinc
        [0.89, 0.79, 0.43],  # brass
        [0.95, 0.64, 0.54],  # copper
        [0.12, 0.12, 0.12],  # blackened steel
    ]
)
_METALS_UP_TO = np.cumsum(np.array([6, 6, 2, 2, 3, 2, 1, 2]) / 24)
"""Linear reflectance at right angles. Source: Lagarde 2011, "Feeding a physically based shading model"."""

_USUAL_COLORS = np.array(
    [
        [0.03, 0.03, 0.03],
        [0.6, 0.6, 0.58],
        [0.18, 0.19, 0.2],
        [0.05, 0.12, 0.35],
        [0.4, 0.03, 0.02],
        [0.55, 0.3, 0.02],
        [0.05, 0.2, 0.07],
        [0.6, 0.12, 0.02],
    ]
)


def random_material(rng: np.random.Generator, kinds: Sequence[Material]) -> Floats:
    """Return the values (N_VALUES,) of a material of one of these kinds."""
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "metal":
        color = _METALS[np.searchsorted(_METALS_UP_TO, rng.random(), side="right")] * rng.uniform(0.75, 1.05, 3).mean()
        rough = rng.uniform(0.18, 0.6)
        relief = rng.choice([NONE, CAST, TURNED], p=[0.4, 0.25, 0.35])
        return _values(color, 1.0, rough, 0.0, relief, rng)
    color = _USUAL_COLORS[rng.integers(len(_USUAL_COLORS))] * rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
    if rng.random() < 0.2:
        color = 0.04 + 0.7 * rng.random(3) ** 1.5
    rough = rng.uniform(0.25, 0.75) if kind == "plastic" else rng.uniform(0.2, 0.55)
    relief = rng.choice([NONE, CAST], p=[0.5, 0.5])
    return _values(color, 0.0, rough, rng.uniform(0.03, 0.06), relief, rng)


def ground_material(rng: np.random.Generator) -> Floats:
    """Return the values of what parts lie on; its colour comes from a texture."""
    rough = rng.uniform(0.35, 1.0)
    return np.array([1, 1, 1, 0, rough, 0.04, NONE, 0, 1], np.float32)


def _values(
    color: NDArray[np.float64], metallic: float, rough: float, f0: float, relief: float, rng: np.random.Generator
) -> Floats:
    height = rng.uniform(0.03, 0.22) if relief == CAST else rng.uniform(0.02, 0.1)
    waves = rng.uniform(15, 60) if relief == CAST else rng.uniform(60, 200)
    return np.array([*np.clip(color, 0.01, 1), metallic, rough, f0, relief, height, waves], np.float32)


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


@fused
def roughen(
    rows: Rows,
    owner: Ints,
    points: Floats,
    turns: Floats,
    shifts: Floats,
    sizes: Floats,
    materials: Floats,
    scratches: Floats,
    normals: Floats,
) -> None:
    """Tilt the normals (N, 3) of some rows by the relief of their material.

    Args:
        owner: (N,) row of the material, and of the solid; a material without a solid, the ground's, has no relief.
        points: (N, 3) camera frame.
        turns, shifts, sizes, scratches: of the solids, as in `Placed`.
    """
    cast, buffer, n = np.empty(_BLOCK, np.uint32), np.zeros(3 * _BLOCK, np.float32), U(0)
    for r in range(U(len(rows))):
        i = U(rows[r])
        own = U(owner[i])
        kind = materials[own, 6]
        if kind == NONE:
            continue
        turn, shift = turns[own], shifts[own]
        waves = materials[own, 8] / sizes[own]
        x, y, z = points[i, 0] - shift[0], points[i, 1] - shift[1], points[i, 2] - shift[2]
        px = (turn[0, 0] * x + turn[1, 0] * y + turn[2, 0] * z) * waves
        py = (turn[0, 1] * x + turn[1, 1] * y + turn[2, 1] * z) * waves
        pz = (turn[0, 2] * x + turn[1, 2] * y + turn[2, 2] * z) * waves
        if kind == CAST:
            cast[n], buffer[_X + n], buffer[_Y + n], buffer[_Z + n] = np.uint32(i), px, py, pz
            n += U(1)
            if n == U(_BLOCK):
                _skin(cast, n, owner, points, turns, materials, buffer, normals)
                n = U(0)
        else:
            scratch = scratches[own]
            cell = np.int32(np.floor(px * scratch[0] + py * scratch[1] + pz * scratch[2]))
            tilt = (_hash(cell, np.int32(7), np.int32(3)) - HALF) * materials[own, 7]
            _tilt(i, tilt * scratch[0], tilt * scratch[1], tilt * scratch[2], turn, points, normals)
    _skin(cast, n, owner, points, turns, materials, buffer, normals)


@fused
def _skin(
    rows: Rows,
    n: np.uint64,
    owner: Ints,
    points: Floats,
    turns: Floats,
    materials: Floats,
    buffer: Floats,
    normals: Floats,
) -> None:
    """Tilt the first n of a block's rows by noise at the places in the buffer, which is overwritten."""
    for k in range(U(_BLOCK)):
        dx, dy, dz = _slopes(buffer[_X + k], buffer[_Y + k], buffer[_Z + k])
        buffer[_X + k], buffer[_Y + k], buffer[_Z + k] = dx, dy, dz
    for k in range(n):
        i = U(rows[k])
        own = U(owner[i])
        height = materials[own, 7]
        dx, dy, dz = buffer[_X + k] * height, buffer[_Y + k] * height, buffer[_Z + k] * height
        _tilt(i, dx, dy, dz, turns[own], points, normals)


@fused
def _tilt(
    i: np.uint64, dx: np.float32, dy: np.float32, dz: np.float32, turn: Floats, points: Floats, normals: Floats
) -> None:
    """Tilt a normal by slopes in the solid's own frame, unless it would face away."""
    nx = normals[i, 0] - turn[0, 0] * dx - turn[0, 1] * dy - turn[0, 2] * dz
    ny = normals[i, 1] - turn[1, 0] * dx - turn[1, 1] * dy - turn[1, 2] * dz
    nz = normals[i, 2] - turn[2, 0] * dx - turn[2, 1] * dy - turn[2, 2] * dz
    norm = ONE / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-20))
    nx, ny, nz = nx * norm, ny * norm, nz * norm
    if nx * points[i, 0] + ny * points[i, 1] + nz * points[i, 2] < ZERO:
        normals[i, 0], normals[i, 1], normals[i, 2] = nx, ny, nz
