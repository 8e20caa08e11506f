"""CPU kernels: gradients from pixels back to splats, tile by tile."""

from typing import Any

import numpy as np

from tasks.geometry.jit import Floats, Ints, kernel, summing
from tasks.splatting.render.projection_kernels import (
    ACROSS,
    BLUE,
    CENTER_X,
    CENTER_Y,
    DOWN,
    GREEN,
    LN_2,
    LOG_OPACITY,
    RED,
    SHEAR,
)
from tasks.splatting.render.tile_kernels import (
    ALPHA_MAX,
    B_AT,
    E_AT,
    G_AT,
    LANES,
    ONE,
    R_AT,
    REST_AT,
    TILE,
    W_AT,
    X_AT,
    Y_AT,
    ZERO,
    all_closed,
    along_row,
    fma,
    from_middle,
    open_tile,
    put_behind,
    rows_of,
    tile_buffer,
)

HALF = np.float32(TILE // 2)


@kernel
def _origin(center: Any) -> Any:
    """Return where sums over a tile are taken from, along one side: the whole number in the tile nearest to a splat."""
    return np.float32(np.rint(np.minimum(np.maximum(center, -HALF), HALF)))


@kernel
def _blend_back(buffer: Floats, splats: Floats, i: int, rows: tuple[np.uint64, np.uint64], left: int, top: int) -> None:
    """Draw one splat again, and write down how much each pixel took of it (W) and says about its exponent (E)."""
    red, green, blue = splats[i, RED], splats[i, GREEN], splats[i, BLUE]
    for row in range(rows[0], rows[1]):
        exponent = along_row(splats, i, row, left, top)
        for lane in range(LANES):
            at = row * LANES + lane
            weight, alpha, raw, through, is_open = put_behind(buffer, at, exponent)
            by_r, by_g, by_b = buffer[R_AT + at], buffer[G_AT + at], buffer[B_AT + at]
            light = fma(by_r, red, fma(by_g, green, by_b * blue))
            rest = fma(-weight, light, buffer[REST_AT + at])
            buffer[REST_AT + at] = rest
            by_e = alpha * (through * light - rest / (ONE - alpha))
            buffer[E_AT + at] = by_e if is_open & (raw <= ALPHA_MAX) else ZERO
            buffer[W_AT + at] = weight


@summing
def _moments(buffer: Floats, rows: tuple[np.uint64, np.uint64], left: float, top: float) -> tuple[Any, ...]:
    """Return the sums over some rows of e, e x, e x^2, e y, e x y, e y^2 and of the colours.

    Args:
        left, top: column and row that x and y are measured from.
    """
    e = ex = exx = ey = exy = eyy = red = green = blue = ZERO
    for at in range(rows[0] * LANES, rows[1] * LANES):
        by_e, weight = buffer[E_AT + at], buffer[W_AT + at]
        x, y = buffer[X_AT + at] - left, buffer[Y_AT + at] - top
        by_ex, by_ey = by_e * x, by_e * y
        e += by_e
        ex += by_ex
        exx += by_ex * x
        ey += by_ey
        exy += by_ex * y
        eyy += by_ey * y
        red += weight * buffer[R_AT + at]
        green += weight * buffer[G_AT + at]
        blue += weight * buffer[B_AT + at]
    return e, ex, exx, ey, exy, eyy, red, green, blue


@kernel
def _gather(
    buffer: Floats, splats: Floats, i: int, rows: tuple[np.uint64, np.uint64], left: int, top: int, out: Floats
) -> None:
    """Write a splat's gradient by its columns, from the sums over its rows of the tile.

    These are taken from the tile's place nearest to the splat's centre and moved there in float64: however far away
    that is, an error of the sums then is that of a slightly different image, and does not grow with the distance.
    """
    px, py = from_middle(splats, i, left, top)
    sums = _moments(buffer, rows, _origin(px), _origin(py))
    e, ex, exx = float(sums[0]), float(sums[1]), float(sums[2])
    ey, exy, eyy = float(sums[3]), float(sums[4]), float(sums[5])
    x, y = float(px) - float(_origin(px)), float(py) - float(_origin(py))
    a, shear, d = float(splats[i, ACROSS]), float(splats[i, SHEAR]), float(splats[i, DOWN])
    ridge = x + shear * y
    eu, edy = ex + shear * ey - ridge * e, ey - y * e
    eud = exy + shear * eyy - ridge * ey - y * eu
    euu = exx + shear * (2 * exy + shear * eyy) - ridge * (2 * (ex + shear * ey) - ridge * e)
    edd = eyy - y * (2 * ey - y * e)
    out[CENTER_X], out[CENTER_Y] = LN_2 * 2 * a * eu, LN_2 * 2 * (a * shear * eu + d * edy)
    out[ACROSS], out[SHEAR], out[DOWN] = -LN_2 * euu, -LN_2 * 2 * a * eud, -LN_2 * edd
    out[LOG_OPACITY], out[RED], out[GREEN], out[BLUE] = LN_2 * e, sums[6], sums[7], sums[8]


@kernel
def _open_back(buffer: Floats, left: int, top: int, image: tuple[Floats, Floats, Floats, Floats]) -> tuple[int, int]:
    """Begin a tile's way back: what each pixel asks for, and how much of that is still to come."""
    colors, through, by_colors, by_alphas = image
    n_columns, n_rows = open_tile(buffer, left, top, through.shape[1], through.shape[0])
    for row in range(n_rows):
        for column in range(n_columns):
            pixel = np.uint64(row * TILE + column)
            y, x = top + row, left + column
            buffer[R_AT + pixel] = by_colors[y, x, 0]
            buffer[G_AT + pixel] = by_colors[y, x, 1]
            buffer[B_AT + pixel] = by_colors[y, x, 2]
            rest = by_colors[y, x, 0] * colors[y, x, 0] + by_colors[y, x, 1] * colors[y, x, 1]
            rest += by_colors[y, x, 2] * colors[y, x, 2]
            buffer[REST_AT + pixel] = rest - by_alphas[y, x] * through[y, x]
    return n_columns, n_rows


@kernel
def draw_back(
    first: int,
    step: int,
    tile_starts: Ints,
    numbers: Ints,
    places: Ints,
    splats: Floats,
    image: tuple[Floats, Floats, Floats, Floats],
    out: Floats,
) -> None:
    """Fill out (entries, 9), zero before: the gradient by the columns CENTER_X to BLUE, for each splat in each tile.

    Args:
        image: colors (H, W, 3) and through (H, W) as drawn; gradients by colors and by alphas.
    """
    columns = (image[1].shape[1] + TILE - 1) // TILE
    buffer = tile_buffer()
    for tile in range(first, len(tile_starts) - 1, step):
        left, top = tile % columns * TILE, tile // columns * TILE
        _, n_rows = _open_back(buffer, left, top, image)
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            rows = rows_of(splats, numbers[entry], top, n_rows)
            if rows[0] < rows[1]:
                _blend_back(buffer, splats, numbers[entry], rows, left, top)
                _gather(buffer, splats, numbers[entry], rows, left, top, out[places[entry]])
            if (entry - tile_starts[tile]) % 16 == 15 and all_closed(buffer):
                break


@kernel
def reduce_entries(
    first: int, step: int, order: Ints, starts: Ints, entries: Floats, by_center: Floats, by_splats: Floats
) -> None:
    """Sum each splat's gradients over its tiles, in their order: by_center (N, 2), by_splats (N, 12), zero before."""
    n = len(order)
    for rank in range(n * first // step, n * (first + 1) // step):
        i = order[rank]
        for entry in range(starts[rank], starts[rank + 1]):
            by_center[i, 0] += entries[entry, 0]
            by_center[i, 1] += entries[entry, 1]
            for column in range(2, 9):
                by_splats[i, column] += entries[entry, column]
