"""Makes even what single rays say of the sky and the lamp, over pixels that see the same surface.

Pixels of a tile of 4 x 4 look in different directions, half of them to the sky, half to the lamp, like a chess board;
the mean of a tile has looked in all.
"""

import numpy as np

from tasks.geometry.jit import Bytes, F, Flags, Floats, Ints, Rows, U, fused
from tasks.recognition.render.hits import Hits

Surface = tuple[Rows, int, Bytes, Bytes, Ints, Ints, Floats, Floats]
"""Pixels, side of the image, what tiles see around them, where windows see more than one surface, and what each pixel
sees: owner, face, distance, normal."""

ONE, ZERO = F(1), F(0)
TILE = 4


def smoothed(rows: Rows, bent: Flags, hits: Hits, size: int, seen: Floats) -> tuple[Floats, Floats]:
    """Return the shares of the sky, and of the lamp, (N,) each, that are open around some (M,) of the pixels.

    Args:
        bent: (N,) pixels beside one that does not see the same surface.
        seen: (N,) what each pixel sees of the sky or, on the other colour of the chess board, of the lamp.
    """
    n, n_tiles = len(seen), -(-size // TILE)
    states, around = np.zeros((n_tiles, n_tiles), np.uint8), np.zeros((n_tiles, n_tiles), np.uint8)
    _look_around(size, hits.owner, seen, states, around)
    surface = (rows, size, around, _windows(size, bent), hits.owner, hits.face, hits.t, hits.normals)
    coarse, sky, lamp = np.ones((n, 2), np.float32), np.ones(n, np.float32), np.ones(n, np.float32)
    mixed = np.empty(len(rows), np.uint32)
    n_mixed = _mean_of_board(surface, seen, coarse, lamp, mixed)
    _mean_again((mixed[:n_mixed], *surface[1:]), coarse, sky, lamp)
    return sky, lamp


@fused
def row_and_column(i: np.uint64, width: np.uint64, inverse: float) -> tuple[np.uint64, np.uint64]:
    """Return where pixel i of an image of this width lies; 1 / width is given, as whole numbers divide slowly."""
    row = U((i + 0.5) * inverse)
    return row, i - row * width


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


def _windows(size: int, bent: Flags) -> Bytes:
    """Return for the first pixel of each window of 4 x 4 whether any of its pixels is bent (N,)."""
    across, windows = np.zeros(size * size, np.uint8), np.zeros(size * size, np.uint8)
    _any_of_four(bent.view(np.uint8), 1, across)
    _any_of_four(across, size, windows)
    return windows


@fused
def _any_of_four(flags: Bytes, step: int, out: Bytes) -> None:
    for i in range(U(len(flags)) - U(3) * U(step)):
        out[i] = flags[i] | flags[i + U(step)] | flags[i + U(2) * U(step)] | flags[i + U(3) * U(step)]


@fused
def _mean_of_board(surface: Surface, seen: Floats, means: Floats, final: Floats, mixed: Rows) -> int:
    """Write means (N, 2), for sky and lamp, over those of the 4 x 4 pixels around that see the same surface.

    Where all pixels around see the same of both, the share of the lamp is `final`; all others are written to `mixed`.

    Returns:
        How many are mixed.
    """
    n_mixed = U(0)
    rows, size, around, bent, owner, face, t, normals = surface
    width, inverse = U(size), 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        row, column = row_and_column(i, width, inverse)
        state = around[row >> U(2), column >> U(2)]
        if state <= 2:  # all alike
            means[i, 1] = final[i] = ZERO if state == 2 else ONE
            continue
        mixed[n_mixed] = np.uint32(i)
        n_mixed += U(1)
        # At the rim of the image the window is moved inwards: its fixed size lets the loops be unrolled.
        first = min(max(row, U(2)), width - U(2)) - U(2)
        left = min(max(column, U(2)), width - U(2)) - U(2)
        sky, lamp = U(0), U(1)  # the colour of the window's first pixel, and the other one
        if (first + left) & U(1):
            sky, lamp = U(1), U(0)
        sum_0, sum_1, n_0, n_1 = ZERO, ZERO, ZERO, ZERO
        if not bent[first * width + left]:
            for dy in range(4):
                j = (first + U(dy)) * width + left
                a, b = seen[j] + seen[j + U(2)], seen[j + U(1)] + seen[j + U(3)]
                if dy & 1:
                    a, b = b, a
                sum_0, sum_1 = sum_0 + a, sum_1 + b
            means[i, sky], means[i, lamp] = sum_0 * F(0.125), sum_1 * F(0.125)
            continue
        mine, own, near = owner[i], face[i], F(0.03) * t[i]
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        for dy in range(4):
            for dx in range(4):
                j = (first + U(dy)) * width + left + U(dx)
                turn = nx * normals[j, 0] + ny * normals[j, 1] + nz * normals[j, 2]
                level = (turn >= F(0.8)) & (abs(t[j] - t[i]) <= near)  # without branches: they would come as a surprise
                alike = F((owner[j] == mine) & ((face[j] == own) | level))
                if (dy + dx) & 1:
                    sum_1, n_1 = sum_1 + alike * seen[j], n_1 + alike
                else:
                    sum_0, n_0 = sum_0 + alike * seen[j], n_0 + alike
        if n_0 > ZERO:
            means[i, sky] = sum_0 / n_0
        if n_1 > ZERO:
            means[i, lamp] = sum_1 / n_1
    return int(n_mixed)


@fused
def _mean_again(surface: Surface, means: Floats, sky: Floats, lamp: Floats) -> None:
    """Write means of means, over a pixel and four around it, which together reach over 7 x 7."""
    rows, size, around, bent, owner, face, t, normals = surface
    width, inverse = U(size), 1 / size
    for r in range(U(len(rows))):
        i = U(rows[r])
        row, column = row_and_column(i, width, inverse)
        top, bottom = row - U(1) if row > 0 else row, min(row + U(2), width - U(1))
        left, right = column - U(1) if column > 0 else column, min(column + U(2), width - U(1))
        sky_sum, lamp_sum, n = means[i, 0], means[i, 1], ONE
        if not bent[min(top, width - U(4)) * width + min(left, width - U(4))]:
            a, b = top * width, bottom * width
            sky_sum += means[a + left, 0] + means[a + right, 0] + means[b + left, 0] + means[b + right, 0]
            lamp_sum += means[a + left, 1] + means[a + right, 1] + means[b + left, 1] + means[b + right, 1]
            sky[i], lamp[i] = sky_sum * F(0.2), lamp_sum * F(0.2)
            continue
        mine, own, near = owner[i], face[i], F(0.03) * t[i]
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        for y in (top, bottom):
            for x in (left, right):
                j = y * width + x
                turn = nx * normals[j, 0] + ny * normals[j, 1] + nz * normals[j, 2]
                level = (turn >= F(0.8)) & (abs(t[j] - t[i]) <= near)
                alike = F((owner[j] == mine) & ((face[j] == own) | level))
                sky_sum, lamp_sum, n = sky_sum + alike * means[j, 0], lamp_sum + alike * means[j, 1], n + alike
        sky[i], lamp[i] = sky_sum / n, lamp_sum / n
