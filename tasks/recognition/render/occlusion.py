"""How much of the sky and of the lamp each pixel's surface sees, by one ray a pixel."""

from collections.abc import Sequence

import numpy as np

from tasks.geometry.jit import F, Flags, Floats, Ints, Rows, U, fused
from tasks.recognition.render.composition import Ground, Light, Placed
from tasks.recognition.render.hits import Hits
from tasks.recognition.render.means import TILE, row_and_column, smoothed

ONE, ZERO = F(1), F(0)
_BOARD = [[k for k in range(TILE * TILE) if (k // TILE + k) % 2 == color] for color in (0, 1)]
_LIFT = F(2e-4)  # diameters that rays start above a surface
_REACH = 0.6  # diameters within which surfaces take light from one another
_FOREVER = 1e6


def occlusion(
    rows: Rows,
    bent: Flags,
    hits: Hits,
    size: int,
    objects: Sequence[Placed],
    ground: Ground | None,
    light: Light,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Return the share of the sky, and of the lamp, (N,) each, that is open to each pixel of some rows.

    Args:
        rows: (M,) of the N = size * size pixels, all of which hit something.
        bent: (N,) pixels beside one that does not see the same surface.
    """
    angles, radii = _pattern(rng)
    starts, ways = np.empty((len(rows), 3), np.float32), np.empty((len(rows), 3), np.float32)
    reach = F(_REACH * max(placed.size for placed in objects))
    seen = np.ones(len(hits.rays), np.float32)
    largest = F(max(placed.size for placed in objects))
    _aim(
        *(rows, size, hits.points, hits.normals, angles, radii, light.lamp, F(light.spread)),
        *(_LIFT * largest, starts, ways, seen),
    )
    for number, placed in enumerate(objects):
        _look_through(number, placed, rows, size, hits, (starts, ways), reach, seen)
    if ground is not None:
        level = F(ground.normal @ ground.point)
        _near_ground(rows, size, hits.owner, len(objects), hits.points, ways, ground.normal, level, reach, seen)
    return smoothed(rows, bent, hits, size, seen)


def _pattern(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return angle and radius, on the unit disc, of the direction of each pixel of a tile (16,).

    Those of either colour of the chess board are spread evenly over the disc.
    """
    half = TILE * TILE // 2
    angles, radii = np.empty(2 * half, np.float32), np.empty(2 * half, np.float32)
    for places in _BOARD:
        order = rng.permutation(half)
        angles[places] = order * (np.pi * (3 - 5**0.5)) + rng.uniform(0, 2 * np.pi)
        radii[places] = np.sqrt((order + 0.5) / half)
    return angles, radii


@fused
def _aim(
    rows: Rows,
    size: int,
    points: Floats,
    normals: Floats,
    angles: Floats,
    radii: Floats,
    lamp: Floats,
    spread: np.float32,
    lift: np.float32,
    starts: Floats,
    ways: Floats,
    seen: Floats,
) -> None:
    """Write where rays start, and their directions (M, 3): around the normal by the cosine, or to a place on the lamp.

    What faces away from the lamp does not see it.
    """
    xs, ys, zs = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(16, np.float32)
    for k in range(16):
        xs[k], ys[k] = radii[k] * np.cos(angles[k]), radii[k] * np.sin(angles[k])
        zs[k] = np.sqrt(max(ONE - radii[k] * radii[k], F(0.01)))
    width, inverse = U(size), 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        row, column = row_and_column(i, width, inverse)
        place = (row & U(3)) * U(4) + (column & U(3))
        x, y, z = xs[place], ys[place], zs[place]
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        if (row + column) & U(1):
            if nx * lamp[0] + ny * lamp[1] + nz * lamp[2] <= ZERO:
                seen[i] = ZERO
            # The sideways parts serve as the place on the lamp's disc: near enough to even.
            ways[r, 0], ways[r, 1] = lamp[0] + spread * x, lamp[1] + spread * y
            ways[r, 2] = lamp[2] + spread * (z - F(0.5))
        else:
            # Duff et al. 2017, "Building an Orthonormal Basis, Revisited".
            sign = ONE if nz >= ZERO else -ONE
            a = -ONE / (sign + nz)
            b = nx * ny * a
            ways[r, 0] = x * (ONE + sign * nx * nx * a) + y * b + z * nx
            ways[r, 1] = x * sign * b + y * (sign + ny * ny * a) + z * ny
            ways[r, 2] = -x * sign * nx - y * ny + z * nz
        starts[r, 0] = points[i, 0] + lift * nx
        starts[r, 1] = points[i, 1] + lift * ny
        starts[r, 2] = points[i, 2] + lift * nz


def _look_through(
    number: int,
    placed: Placed,
    rows: Rows,
    size: int,
    hits: Hits,
    rays: tuple[Floats, Floats],
    reach: np.float32,
    seen: Floats,
) -> None:
    """Darken the pixels whose rays a solid stands in the way of; only those that come near it are traced.

    Args:
        number: of the solid.
        rays: starts and ways (M, 3).
    """
    n, solid = len(rows), placed.solid
    chosen = np.empty(n, np.uint32)
    own_starts, own_ways, limits = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32), np.empty(n, np.float32)
    n_chosen = _near_solid(
        *(rows, size, *rays, placed.turn, placed.shift, F(placed.size), solid.box, reach, seen),
        *(number, hits.owner, hits.face, solid.outer, chosen, own_starts, own_ways, limits),
    )
    if n_chosen:
        _darken(chosen, solid.blocks(own_starts[:n_chosen], own_ways[:n_chosen], limits[:n_chosen]), seen)


@fused
def _darken(chosen: Rows, blocked: Flags, seen: Floats) -> None:
    for r in range(U(len(blocked))):
        if blocked[r]:
            seen[U(chosen[r])] = ZERO


@fused
def _near_solid(
    rows: Rows,
    size: int,
    starts: Floats,
    ways: Floats,
    turn: Floats,
    middle: Floats,
    diameter: np.float32,
    box: Floats,
    reach: np.float32,
    seen: Floats,
    number: int,
    owner: Ints,
    face: Ints,
    outer: Floats,
    chosen: Rows,
    own_starts: Floats,
    own_ways: Floats,
    limits: Floats,
) -> int:
    """Write the rays that a solid may stand in the way of within reach, in its own frame; return how many.

    Those that leave the front of a face with all of its solid behind it are left out, and those that pass its box.

    Args:
        box: (2, 3) lowest and highest corner, its own frame.
        outer: (F, 3) normals of the faces with all of the solid behind them, its own frame, zeros for the others.
    """
    n = U(0)
    width, inverse = U(size), 1 / size
    square = diameter * diameter * F(0.25)
    scale = ONE / diameter
    for r in range(U(len(rows))):
        i = U(rows[r])
        if seen[i] == ZERO:
            continue
        x, y, z = middle[0] - starts[r, 0], middle[1] - starts[r, 1], middle[2] - starts[r, 2]
        dx, dy, dz = ways[r, 0], ways[r, 1], ways[r, 2]
        own_x = turn[0, 0] * dx + turn[1, 0] * dy + turn[2, 0] * dz
        own_y = turn[0, 1] * dx + turn[1, 1] * dy + turn[2, 1] * dz
        own_z = turn[0, 2] * dx + turn[1, 2] * dy + turn[2, 2] * dz
        if owner[i] == number:
            f = U(face[i])
            if own_x * outer[f, 0] + own_y * outer[f, 1] + own_z * outer[f, 2] > ZERO:
                continue
        row, column = row_and_column(i, width, inverse)
        limit = F(_FOREVER) if (row + column) & U(1) else reach
        distance = x * x + y * y + z * z
        if distance > square:
            far = diameter * F(0.5) + limit
            ahead = x * dx + y * dy + z * dz
            length = dx * dx + dy * dy + dz * dz
            if ahead <= ZERO or distance > far * far or (distance - square) * length > ahead * ahead:
                continue
        enter, leave = ZERO, limit
        for c in range(U(3)):
            start = -(turn[0, c] * x + turn[1, c] * y + turn[2, c] * z) * scale
            way = (turn[0, c] * dx + turn[1, c] * dy + turn[2, c] * dz) * scale
            own_starts[n, c], own_ways[n, c] = start, way
            share = ONE / way
            low, high = (box[0, c] - start) * share, (box[1, c] - start) * share
            enter, leave = max(enter, min(low, high)), min(leave, max(low, high))
        limits[n] = limit
        chosen[n] = np.uint32(i)
        n += U(enter <= leave)
    return int(n)


@fused
def _near_ground(
    rows: Rows,
    size: int,
    owner: Ints,
    ground: int,
    points: Floats,
    ways: Floats,
    normal: Floats,
    level: np.float32,
    reach: np.float32,
    seen: Floats,
) -> None:
    """Darken what looks down at the ground close by, which sends part of the light on."""
    width, inverse = U(size), 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        row, column = row_and_column(i, width, inverse)
        if owner[i] == ground or seen[i] == ZERO or (row + column) & U(1):
            continue
        down = -(ways[r, 0] * normal[0] + ways[r, 1] * normal[1] + ways[r, 2] * normal[2])
        if down > F(0.01):
            height = points[i, 0] * normal[0] + points[i, 1] * normal[1] + points[i, 2] * normal[2] - level
            away = height / down
            if away < reach:
                seen[i] = F(0.3) + F(0.5) * max(away, ZERO) / reach
