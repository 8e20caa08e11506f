"""How much of the sky and of the lamp each pixel's surface sees, by one ray a pixel."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.recognition.render.composition import Ground, Light, Placed
from tasks.recognition.render.hits import Hits

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Rows = NDArray[np.uint32]
Bytes = NDArray[np.uint8]

Surface = tuple[Rows, int, Bytes, Ints, Ints, Floats, Floats]
"""Pixels, side of the image, what tiles see around them, and what each pixel sees: owner, face, distance, normal."""

F = np.float32
U = np.uint64
ONE, ZERO = F(1), F(0)
_TILE = 4
"""Pixels of a tile of 4 x 4 look in different directions, half of them to the sky, half to the lamp, like a chess
board; the mean of a tile has looked in all."""
_LIFT = F(2e-4)  # diameters that rays start above a surface
_REACH = 0.6  # diameters within which surfaces take light from one another
_FOREVER = 1e6


def occlusion(
    rows: Rows,
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
    for placed in objects:
        _look_through(placed, rows, size, starts, ways, reach, seen)
    if ground is not None:
        level = F(ground.normal @ ground.point)
        _near_ground(rows, size, hits.owner, len(objects), hits.points, ways, ground.normal, level, reach, seen)
    n_tiles = -(-size // _TILE)
    states, around = np.zeros((n_tiles, n_tiles), np.uint8), np.zeros((n_tiles, n_tiles), np.uint8)
    _look_around(size, hits.owner, seen, states, around)
    surface = (rows, size, around, hits.owner, hits.face, hits.t, hits.normals)
    coarse, smooth = np.ones((len(seen), 2), np.float32), np.ones((len(seen), 2), np.float32)
    _mean_of_board(surface, seen, coarse)
    _mean_again(surface, coarse, smooth)
    return smooth[:, 0], smooth[:, 1]


def _pattern(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return angle and radius, on the unit disc, of the direction of each pixel of a tile (16,).

    Those of either colour of the chess board are spread evenly over the disc.
    """
    half = _TILE * _TILE // 2
    angles, radii = np.empty(2 * half), np.empty(2 * half)
    board = np.add.outer(np.arange(_TILE), np.arange(_TILE)).reshape(-1) % 2
    for color in (0, 1):
        order = rng.permutation(half)
        angles[board == color] = (order * (np.pi * (3 - 5**0.5))) + rng.uniform(0, 2 * np.pi)
        radii[board == color] = np.sqrt((order + 0.5) / half)
    return angles.astype(np.float32), radii.astype(np.float32)


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
    width = U(size)
    inverse = 1 / size  # whole numbers divide slowly
    for r in range(U(len(rows))):
        i = U(rows[r])
        row = U((i + 0.5) * inverse)
        column = i - row * width
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
    placed: Placed, rows: Rows, size: int, starts: Floats, ways: Floats, reach: np.float32, seen: Floats
) -> None:
    """Darken the pixels whose rays a solid stands in the way of; only those that come near its sphere are traced."""
    n = len(rows)
    chosen = np.empty(n, np.uint32)
    own_starts, own_ways, limits = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32), np.empty(n, np.float32)
    n_chosen = _near_sphere(
        *(rows, size, starts, ways, placed.turn, placed.shift, F(placed.size), reach, seen),
        *(chosen, own_starts, own_ways, limits),
    )
    if n_chosen:
        blocked = placed.solid.blocks(own_starts[:n_chosen], own_ways[:n_chosen], limits[:n_chosen])
        seen[chosen[:n_chosen][blocked]] = 0


@fused
def _near_sphere(
    rows: Rows,
    size: int,
    starts: Floats,
    ways: Floats,
    turn: Floats,
    middle: Floats,
    diameter: np.float32,
    reach: np.float32,
    seen: Floats,
    chosen: Rows,
    own_starts: Floats,
    own_ways: Floats,
    limits: Floats,
) -> int:
    """Write the rays that pass a solid's sphere within reach, in its own frame; return how many."""
    n = U(0)
    width = U(size)
    square = diameter * diameter * F(0.25)
    scale = ONE / diameter
    inverse = 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        if seen[i] == ZERO:
            continue
        x, y, z = middle[0] - starts[r, 0], middle[1] - starts[r, 1], middle[2] - starts[r, 2]
        dx, dy, dz = ways[r, 0], ways[r, 1], ways[r, 2]
        row = U((i + 0.5) * inverse)
        limit = F(_FOREVER) if (row + i - row * width) & U(1) else reach
        distance = x * x + y * y + z * z
        if distance > square:
            far = diameter * F(0.5) + limit
            ahead = x * dx + y * dy + z * dz
            length = dx * dx + dy * dy + dz * dz
            if ahead <= ZERO or distance > far * far or (distance - square) * length > ahead * ahead:
                continue
        for c in range(3):
            own_starts[n, c] = -(turn[0, c] * x + turn[1, c] * y + turn[2, c] * z) * scale
            own_ways[n, c] = (turn[0, c] * dx + turn[1, c] * dy + turn[2, c] * dz) * scale
        limits[n] = limit
        chosen[n] = np.uint32(i)
        n += U(1)
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
        row = U((i + 0.5) * inverse)
        if owner[i] == ground or seen[i] == ZERO or (row + i - row * width) & U(1):
            continue
        down = -(ways[r, 0] * normal[0] + ways[r, 1] * normal[1] + ways[r, 2] * normal[2])
        if down > F(0.01):
            height = points[i, 0] * normal[0] + points[i, 1] * normal[1] + points[i, 2] * normal[2] - level
            away = height / down
            if away < reach:
                seen[i] = F(0.3) + F(0.5) * max(away, ZERO) / reach


@fused
def _look_around(size: int, owner: Ints, seen: Floats, states: Bytes, around: Bytes) -> None:
    """Write what the pixels of each tile, and of those around it, see: 1 the lamp, 2 its shade, 4 not all the sky."""
    n = U(len(states))
    width = U(size)
    for row in range(width):
        for column in range(width):
            i = row * width + column
            if owner[i] < 0:
                continue
            if (row + column) & U(1):
                state = np.uint8(1) if seen[i] == ONE else np.uint8(2)
            else:
                state = np.uint8(0) if seen[i] == ONE else np.uint8(4)
            states[row >> U(2), column >> U(2)] |= state
    for row in range(n):
        for column in range(n):
            for y in range(row - U(1) if row > 0 else row, min(row + U(2), n)):
                for x in range(column - U(1) if column > 0 else column, min(column + U(2), n)):
                    around[row, column] |= states[y, x]


@fused
def _mean_of_board(surface: Surface, seen: Floats, means: Floats) -> None:
    """Write means (N, 2), for sky and lamp, over those of the 4 x 4 pixels around that see the same surface."""
    rows, size, around, owner, face, t, normals = surface
    width, inverse = U(size), 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        row = U((i + 0.5) * inverse)
        column = i - row * width
        state = around[row >> U(2), column >> U(2)]
        if state <= 2:  # all alike
            means[i, 1] = ZERO if state == 2 else ONE
            continue
        # At the rim of the image the window is moved inwards: its fixed size lets the loops be unrolled.
        first = min(max(row, U(2)), width - U(2)) - U(2)
        left = min(max(column, U(2)), width - U(2)) - U(2)
        mine, own, near = owner[i], face[i], F(0.03) * t[i]
        # Of the colour of the window's first pixel, and of the other one.
        sum_0, sum_1, n_0, n_1 = ZERO, ZERO, ZERO, ZERO
        for dy in range(4):
            for dx in range(4):
                j = (first + U(dy)) * width + left + U(dx)
                if owner[j] != mine:
                    continue
                if face[j] != own:
                    turn = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
                    if turn < F(0.8) or abs(t[j] - t[i]) > near:
                        continue
                if (dy + dx) & 1:
                    sum_1, n_1 = sum_1 + seen[j], n_1 + ONE
                else:
                    sum_0, n_0 = sum_0 + seen[j], n_0 + ONE
        sky, lamp = U(0), U(1)
        if (first + left) & U(1):
            sky, lamp = U(1), U(0)
        if n_0 > ZERO:
            means[i, sky] = sum_0 / n_0
        if n_1 > ZERO:
            means[i, lamp] = sum_1 / n_1


@fused
def _mean_again(surface: Surface, means: Floats, smooth: Floats) -> None:
    """Write means of means, over a pixel and four around it, which together reach over 7 x 7."""
    rows, size, around, owner, face, t, normals = surface
    width, inverse = U(size), 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        row = U((i + 0.5) * inverse)
        column = i - row * width
        if around[row >> U(2), column >> U(2)] <= 2:
            smooth[i, 1] = means[i, 1]
            continue
        mine, own, near = owner[i], face[i], F(0.03) * t[i]
        sky_sum, lamp_sum, n = means[i, 0], means[i, 1], ONE
        for y in (row - U(1) if row > 0 else row, min(row + U(2), width - U(1))):
            for x in (column - U(1) if column > 0 else column, min(column + U(2), width - U(1))):
                j = y * width + x
                if owner[j] != mine:
                    continue
                if face[j] != own:
                    turn = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
                    if turn < F(0.8) or abs(t[j] - t[i]) > near:
                        continue
                sky_sum, lamp_sum, n = sky_sum + means[j, 0], lamp_sum + means[j, 1], n + ONE
        smooth[i, 0], smooth[i, 1] = sky_sum / n, lamp_sum / n
