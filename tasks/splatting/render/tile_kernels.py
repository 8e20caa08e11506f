"""CPU kernels: draw splats into pixels, one tile of 16x16 pixels at a time.

What lets the compiler make vector code of the loops over the 16 pixels of a row: one flat buffer per tile with
distances it knows, unsigned indices, no branches but selections, and an exponential made of plain arithmetic. The
transmittance of a closed pixel is kept with a minus sign, which saves a mask.
Source: 3DGS (arXiv:2308.04079) sec. 6 and app. C; here the backward pass runs front to back, from the final colour.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from tasks.geometry.jit import Floats, Ints, instruction, kernel
from tasks.splatting.render.projection_kernels import (
    ACROSS,
    BLUE,
    CENTER_X,
    CENTER_Y,
    DEPTH,
    DOWN,
    GREEN,
    LOG_OPACITY,
    N_COLUMNS,
    REACH_Y,
    RED,
    SHEAR,
    SLACK,
)

TILE = 16
LANES = np.uint64(16)
PIXELS = np.uint64(256)
# Places in a tile's buffer; each holds 256 pixels, so that a loop over a row walks all of them at constant distances:
# otherwise every call begins with dozens of comparisons of addresses, to exclude overlaps.
T_AT, R_AT, G_AT, B_AT, REST_AT, X_AT, Y_AT, E_AT, W_AT = (np.uint64(256 * part) for part in range(9))
N_BUFFER = 9 * 256
LINE = 16  # float32 in a cache line

ONE, ZERO = np.float32(1), np.float32(0)
ALPHA_MIN, ALPHA_MAX, STOP = np.float32(1 / 255), np.float32(0.999), np.float32(1e-4)
MIDDLE = np.float32(7.5)  # of the pixel centres of a row or column
LOWEST = np.float32(-30)  # of exponents; 2 ** -30 is far below 1/255
ROUND = np.float32(12582912)  # 1.5 * 2 ** 23: adding it rounds to a whole number
# 2 ** f for f in [-1/2, 1/2], relative error 8e-8; fitted for the least largest relative error.
P0, P1, P2, P3, P4, P5 = (
    np.float32(value)
    for value in (
        1.00000007165463,
        0.693146967063175,
        0.240221197240263,
        0.0555071327607879,
        0.00967554132777765,
        0.00132764711525045,
    )
)


@instruction
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Compile a * b + c, rounded once: forward and backward round alike, whatever else is compiled around them."""
    return types.float32(types.float32, types.float32, types.float32), lambda _c, b, _s, args: b.fma(*args)


@instruction
def _bits(_: Any, value: Any) -> Any:
    """Compile the bits of a float32 as int32."""
    return types.int32(types.float32), lambda _c, b, _s, args: b.bitcast(args[0], ir.IntType(32))


@instruction
def _float(_: Any, value: Any) -> Any:
    """Compile the float32 that has these bits."""
    return types.float32(types.int32), lambda _c, b, _s, args: b.bitcast(args[0], ir.FloatType())


@kernel
def exp2(e: float) -> Any:
    """Return 2 ** e for e in [-30, 100]."""
    shifted = e + ROUND
    f = e - (shifted - ROUND)
    p = fma(fma(fma(fma(fma(P5, f, P4), f, P3), f, P2), f, P1), f, P0)
    return _float(np.int32(_bits(p) + np.int32(np.int32(_bits(shifted)) << np.int32(23))))


@kernel
def tile_buffer() -> Floats:
    """Return the memory of a tile with its pixels' places, rows at the beginnings of cache lines.

    Anywhere else every row lies in two lines: the way back then takes twice as long.
    """
    memory = np.empty(N_BUFFER + LINE, np.float32)
    first = (LINE - memory.ctypes.data // 4 % LINE) % LINE
    buffer = memory[first : first + N_BUFFER]
    for row in range(LANES):
        for lane in range(LANES):
            at = row * LANES + lane
            buffer[X_AT + at] = np.float32(int(lane)) - MIDDLE
            buffer[Y_AT + at] = np.float32(int(row)) - MIDDLE
    return buffer


@kernel
def rows_of(splats: Floats, i: int, top: int, height: int) -> tuple[np.uint64, np.uint64]:
    """Return the first and last + 1 row of a tile that a splat may colour."""
    y, reach = splats[i, CENTER_Y] - np.float32(0.5), splats[i, REACH_Y] + np.float32(SLACK)
    low, high = max(int(math.ceil(y - reach)) - top, 0), min(int(math.floor(y + reach)) + 1 - top, height)
    return np.uint64(low), np.uint64(max(low, high))


@kernel
def open_tile(buffer: Floats, left: int, top: int, width: int, height: int) -> tuple[int, int]:
    """Begin a tile: pixels inside the image are open, those outside closed; return how many columns and rows."""
    columns, rows = min(width - left, TILE), min(height - top, TILE)
    for pixel in range(PIXELS):
        buffer[T_AT + pixel] = -ONE
        buffer[R_AT + pixel] = buffer[G_AT + pixel] = buffer[B_AT + pixel] = buffer[REST_AT + pixel] = ZERO
    for row in range(rows):
        for column in range(columns):
            buffer[row * TILE + column] = ONE
    return columns, rows


@kernel
def from_middle(splats: Floats, i: int, left: int, top: int) -> tuple[float, float]:
    """Return a splat's centre as seen from the middle of a tile."""
    return splats[i, CENTER_X] - np.float32(left + TILE // 2), splats[i, CENTER_Y] - np.float32(top + TILE // 2)


@kernel
def all_closed(buffer: Floats) -> bool:
    """Return whether no pixel of the tile takes more colour."""
    n_open = 0
    for pixel in range(PIXELS):
        n_open += buffer[T_AT + pixel] >= ZERO
    return n_open == 0


@kernel
def along_row(splats: Floats, i: int, row: int, left: int, top: int) -> tuple[Any, Any, Any]:
    """Return a splat's exponent along a row of a tile, minus_a (x - ridge)^2 + level: (minus_a, ridge, level)."""
    x, y = from_middle(splats, i, left, top)
    dy = np.float32(int(row)) - MIDDLE - y
    ridge = fma(-splats[i, SHEAR], dy, x)
    return -splats[i, ACROSS], ridge, fma(-splats[i, DOWN] * dy, dy, splats[i, LOG_OPACITY])


@kernel
def put_behind(buffer: Floats, at: Any, exponent: tuple[Any, Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
    """Put a splat behind what a pixel shows.

    Args:
        buffer: of the tile; its transmittance is written.
        at: of the pixel.
        exponent: of `along_row`.

    Returns:
        (weight, opacity, opacity before its bounds, transmittance before, whether the pixel stays open).
    """
    minus_a, ridge, level = exponent
    u = buffer[X_AT + at] - ridge
    raw = exp2(max(fma(minus_a * u, u, level), LOWEST))
    alpha = min(raw, ALPHA_MAX) if raw >= ALPHA_MIN else ZERO
    through = buffer[T_AT + at]
    after = fma(-alpha, through, through)
    is_open = after > STOP
    buffer[T_AT + at] = after if is_open else -abs(through)
    return alpha * through if is_open else ZERO, alpha, raw, through, is_open


@kernel
def _blend(buffer: Floats, splats: Floats, i: int, rows: tuple[np.uint64, np.uint64], left: int, top: int) -> None:
    """Put one splat behind what a tile's rows show."""
    red, green, blue = splats[i, RED], splats[i, GREEN], splats[i, BLUE]
    for row in range(rows[0], rows[1]):
        exponent = along_row(splats, i, row, left, top)
        for lane in range(LANES):
            at = row * LANES + lane
            weight, _, _, _, _ = put_behind(buffer, at, exponent)
            buffer[R_AT + at] = fma(weight, red, buffer[R_AT + at])
            buffer[G_AT + at] = fma(weight, green, buffer[G_AT + at])
            buffer[B_AT + at] = fma(weight, blue, buffer[B_AT + at])


@kernel
def draw(
    first: int,
    step: int,
    tile_starts: Ints,
    numbers: Ints,
    splats: Floats,
    background: Floats,
    colors: Floats,
    through: Floats,
) -> None:
    """Fill colors (H, W, 3) and through (H, W), the transmittances, from the splats of each tile."""
    height, width = through.shape
    columns = (width + TILE - 1) // TILE
    buffer = tile_buffer()
    for tile in range(first, len(tile_starts) - 1, step):
        left, top = tile % columns * TILE, tile // columns * TILE
        n_columns, n_rows = open_tile(buffer, left, top, width, height)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            rows = rows_of(splats, numbers[entry], top, n_rows)
            _blend(buffer, splats, numbers[entry], rows, left, top)
            if (entry - tile_starts[tile]) % 16 == 15 and all_closed(buffer):
                break
        for row in range(n_rows):
            for column in range(n_columns):
                pixel = np.uint64(row * TILE + column)
                left_over = abs(buffer[T_AT + pixel])
                through[top + row, left + column] = left_over
                colors[top + row, left + column, 0] = buffer[R_AT + pixel] + left_over * background[0]
                colors[top + row, left + column, 1] = buffer[G_AT + pixel] + left_over * background[1]
                colors[top + row, left + column, 2] = buffer[B_AT + pixel] + left_over * background[2]


@kernel
def draw_depths(
    first: int,
    step: int,
    tile_starts: Ints,
    numbers: Ints,
    splats: Floats,
    through: Floats,
    depths: Floats,
) -> None:
    """Fill depths (H, W): the mean of the splats' depths by their weight in the pixel, 0 where nothing is."""
    height, width = depths.shape
    columns = (width + TILE - 1) // TILE
    buffer, plain = tile_buffer(), np.zeros((1, N_COLUMNS), np.float32)
    for tile in range(first, len(tile_starts) - 1, step):
        left, top = tile % columns * TILE, tile // columns * TILE
        n_columns, n_rows = open_tile(buffer, left, top, width, height)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            plain[0] = splats[numbers[entry]]
            plain[0, RED] = plain[0, DEPTH]  # drawn as if it were a colour
            rows = rows_of(splats, numbers[entry], top, n_rows)
            _blend(buffer, plain, 0, rows, left, top)
        for row in range(n_rows):
            for column in range(n_columns):
                weight = ONE - through[top + row, left + column]
                depth = buffer[R_AT + np.uint64(row * TILE + column)]
                depths[top + row, left + column] = depth / weight if weight > ZERO else ZERO
