"""Sorts splats into the tiles of the image, nearest first."""

import math

import numpy as np

from tasks.geometry.jit import Floats, Ints, kernel
from tasks.splatting.render.projection_kernels import (
    ACROSS,
    CENTER_X,
    CENTER_Y,
    DEPTH,
    DOWN,
    REACH_X,
    REACH_Y,
    SHEAR,
    SLACK,
)

TILE = 16  # pixels


@kernel
def by_depth(splats: Floats, radii: Floats) -> Ints:
    """Return the numbers of the splats in the image, nearest first, equals in their own order."""
    n = 0
    order, keys = np.empty(len(radii), np.int32), np.empty(len(radii), np.uint32)
    for i in range(len(radii)):
        if radii[i] > 0:
            # The bits of positive floats have the order of the floats.
            order[n], keys[n] = i, np.float32(splats[i, DEPTH]).view(np.uint32)
            n += 1
    spare_order, spare_keys = np.empty(n, np.int32), np.empty(n, np.uint32)
    order, keys = order[:n], keys[:n]
    for shift in range(0, 32, 11):
        starts = np.zeros(2049, np.int64)
        for i in range(n):
            starts[((keys[i] >> shift) & 2047) + 1] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for i in range(n):
            digit = (keys[i] >> shift) & 2047
            spare_order[starts[digit]], spare_keys[starts[digit]] = order[i], keys[i]
            starts[digit] += 1
        order, spare_order, keys, spare_keys = spare_order, order, spare_keys, keys
    return order


@kernel
def _edge(splats: Floats, i: int, low: float, high: float, side: float) -> float:
    """Return how far a splat's ellipse of alpha = 1/255 reaches to the right (side 1) or left (-1) between two rows.

    Args:
        low, high: rows from the splat's centre, within its reach.
    """
    rx, ry, shear = splats[i, REACH_X], splats[i, REACH_Y], splats[i, SHEAR]
    y = min(max(-side * shear * ry * ry / rx, low), high)
    # With e the same all around the ellipse, ACROSS (dx + SHEAR y)^2 = DOWN (ry^2 - y^2).
    inside = max(ry * ry - y * y, np.float32(0)) * splats[i, DOWN] / splats[i, ACROSS]
    return splats[i, CENTER_X] - shear * y + side * (math.sqrt(inside) + SLACK)


@kernel
def _rows(splats: Floats, i: int, rows: int) -> tuple[int, int]:
    """Return the first and last + 1 row of tiles a splat meets."""
    y, reach = splats[i, CENTER_Y], splats[i, REACH_Y] + SLACK
    return max(int(math.floor((y - reach) / TILE)), 0), min(int(math.floor((y + reach) / TILE)) + 1, rows)


@kernel
def _columns(splats: Floats, i: int, row: int, columns: int) -> tuple[int, int]:
    """Return the first and last + 1 column of tiles a splat meets in a row of tiles."""
    y, reach = splats[i, CENTER_Y], splats[i, REACH_Y]
    low, high = max(row * TILE - SLACK - y, -reach), min((row + 1) * TILE + SLACK - y, reach)
    left, right = _edge(splats, i, low, high, -1.0), _edge(splats, i, low, high, 1.0)
    return max(int(math.floor(left / TILE)), 0), min(int(math.floor(right / TILE)) + 1, columns)


@kernel
def _count(splats: Floats, order: Ints, columns: int, rows: int) -> int:
    """Return at least how many tiles the splats meet, all together."""
    total = 0
    for i in order:
        top, bottom = _rows(splats, i, rows)
        x, reach = splats[i, CENTER_X], splats[i, REACH_X] + 2 * SLACK
        left, right = math.floor((x - reach) / TILE), math.floor((x + reach) / TILE) + 1
        total += max(bottom - top, 0) * max(min(int(right), columns) - max(int(left), 0), 0)
    return total


@kernel
def bin_splats(splats: Floats, order: Ints, columns: int, rows: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the splats of each tile.

    Returns:
        tile_starts (columns * rows + 1,) into the next two; splat numbers; the places their gradients have among
        those of their own splat; and (len(order) + 1,), where in these places each splat of `order` begins.
    """
    starts, sizes = np.zeros(len(order) + 1, np.int32), np.zeros(columns * rows + 1, np.int32)
    most = _count(splats, order, columns, rows)
    tiles, place = np.empty(most, np.int32), 0
    for rank in range(len(order)):
        top, bottom = _rows(splats, order[rank], rows)
        for row in range(top, bottom):
            left, right = _columns(splats, order[rank], row, columns)
            for column in range(left, right):
                sizes[row * columns + column + 1] += 1
                tiles[place] = row * columns + column
                place += 1
        starts[rank + 1] = place
    for tile in range(columns * rows):
        sizes[tile + 1] += sizes[tile]
    cursors, numbers = sizes.copy(), np.empty(place, np.int32)
    places = np.empty(place, np.int32)
    for rank in range(len(order)):
        for place in range(starts[rank], starts[rank + 1]):
            entry = cursors[tiles[place]]
            cursors[tiles[place]] += 1
            numbers[entry], places[entry] = order[rank], place
    return sizes, numbers, places, starts
