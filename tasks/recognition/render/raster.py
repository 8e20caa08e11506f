"""Finds what the pixels of an image see of a solid, face by face, where that is quicker than rays."""

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.recognition.render.composition import Camera, Placed

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Rows = NDArray[np.uint32]

F = np.float32
U = np.uint64
ONE, ZERO = F(1), F(0)
_PIXELS_PER_FACE = 1.0
"""A face takes as long as a ray or so; from more faces than pixels on, rays through the tree are quicker."""
_NEAREST = 0.01  # diameters: what comes nearer to the camera's plane has no finite projection


def is_quicker(placed: Placed, n_pixels: int) -> bool:
    """Return whether a solid should be drawn face by face where it touches so many pixels."""
    few = len(placed.solid.faces) * _PIXELS_PER_FACE < n_pixels
    return few and bool(placed.outline()[:, 2].min() > _NEAREST * placed.size)


def first_seen(placed: Placed, camera: Camera, rows: Rows) -> tuple[Ints, Floats, Floats, Floats]:
    """Return what rays through the middles of some pixels hit first, as `Solid.first_hit` does, without rays.

    A pixel belongs to the face that its middle lies in; one on the edge of two belongs to one of them.

    Args:
        placed: all of it before the camera.
        rows: (M,) numbers of the pixels.

    Returns:
        face (M,), -1 for none; barycentric coordinates (M,), of its second and third corner; depth (M,).
    """
    solid, n = placed.solid, camera.size * camera.size
    corners = np.empty((len(solid.points), 3), np.float32)
    view = (F(camera.focal), F(camera.cx), F(camera.cy))
    _project(solid.points, placed.turn, placed.shift, F(placed.size), *view, corners)
    seen, nearness = np.full(n, -1, np.int32), np.zeros(n, np.float32)
    _fill(corners, solid.faces, camera.size, seen, nearness)
    m = len(rows)
    face, u, v, t = np.empty(m, np.int32), *(np.empty(m, np.float32) for _ in range(3))
    _locate(rows, camera.size, corners, solid.faces, seen, face, u, v, t)
    return face, u, v, t


@fused
def _project(
    points: Floats,
    turn: Floats,
    shift: Floats,
    size: np.float32,
    focal: np.float32,
    cx: np.float32,
    cy: np.float32,
    corners: Floats,
) -> None:
    """Write column, row, both counted from the middle of the first pixel, and one over the depth (V, 3)."""
    for i in range(U(len(points))):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        nearness = ONE / (size * (turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z) + shift[2])
        across = size * (turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z) + shift[0]
        down = size * (turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z) + shift[1]
        corners[i, 0] = focal * across * nearness + cx - F(0.5)
        corners[i, 1] = focal * down * nearness + cy - F(0.5)
        corners[i, 2] = nearness


@fused
def _fill(corners: Floats, faces: Ints, size: int, seen: Ints, nearness: Floats) -> None:
    """Write the nearest face of each pixel, and one over its depth: both (N,), row by row of each face.

    One over the depth is a linear function of column and row. Source: Heckbert and Moreton 1991, "Interpolation for
    Polygon Texture Mapping and Shading".
    """
    last = F(size - 1)
    xs, ys = np.empty(3, np.float32), np.empty(3, np.float32)
    tops, bottoms, starts, slopes = (
        np.empty(3, np.float32),
        np.empty(3, np.float32),
        np.empty(3, np.float32),
        np.empty(3, np.float32),
    )
    for f in range(U(len(faces))):
        a, b, c = U(faces[f, 0]), U(faces[f, 1]), U(faces[f, 2])
        xs[0], xs[1], xs[2] = corners[a, 0], corners[b, 0], corners[c, 0]
        ys[0], ys[1], ys[2] = corners[a, 1], corners[b, 1], corners[c, 1]
        w0, w1, w2 = corners[a, 2], corners[b, 2], corners[c, 2]
        top, bottom = max(np.ceil(ys.min()), ZERO), min(np.floor(ys.max()), last)
        if top > bottom or xs.max() < ZERO or xs.min() > last:
            continue
        x1, y1, x2, y2 = xs[1] - xs[0], ys[1] - ys[0], xs[2] - xs[0], ys[2] - ys[0]
        area = x1 * y2 - x2 * y1
        if area == ZERO:
            continue
        across, down = ((w1 - w0) * y2 - (w2 - w0) * y1) / area, ((w2 - w0) * x1 - (w1 - w0) * x2) / area
        least, most = min(w0, w1, w2), max(w0, w1, w2)
        for k in range(3):
            i, j = k, (k + 1) % 3
            if ys[i] > ys[j]:  # the same way round in both faces of an edge: no pixel falls between them
                i, j = j, i
            tops[k], bottoms[k], starts[k] = ys[i], ys[j], xs[i]
            slopes[k] = (xs[j] - xs[i]) / (ys[j] - ys[i]) if ys[j] > ys[i] else ZERO
        for line in range(int(top), int(bottom) + 1):
            y = F(line)
            left, right = F(1e30), F(-1e30)
            for k in range(3):
                if tops[k] <= y < bottoms[k]:
                    x = starts[k] + (y - tops[k]) * slopes[k]
                    left, right = min(left, x), max(right, x)
            if left > right:
                continue
            first, end = max(np.ceil(left), ZERO), min(np.ceil(right), last + ONE)
            begin = w0 + (y - ys[0]) * down - xs[0] * across
            base = U(line) * U(size)
            for column in range(U(max(first, ZERO)), U(max(end, ZERO))):
                w = min(max(begin + F(column) * across, least), most)
                if w > nearness[base + column]:
                    nearness[base + column] = w
                    seen[base + column] = np.int32(f)


@fused
def _locate(
    rows: Rows,
    size: int,
    corners: Floats,
    faces: Ints,
    seen: Ints,
    face: Ints,
    u: Floats,
    v: Floats,
    t: Floats,
) -> None:
    """Write the face of some pixels (M,), where on it their middles lie, and the depth there."""
    inverse = 1 / size  # whole numbers divide slowly
    for r in range(U(len(rows))):
        i = U(rows[r])
        f = seen[i]
        face[r] = f
        if f < 0:
            continue
        row = U((i + 0.5) * inverse)
        a, b, c = U(faces[U(f), 0]), U(faces[U(f), 1]), U(faces[U(f), 2])
        x, y = F(i - row * U(size)) - corners[a, 0], F(row) - corners[a, 1]
        x1, y1 = corners[b, 0] - corners[a, 0], corners[b, 1] - corners[a, 1]
        x2, y2 = corners[c, 0] - corners[a, 0], corners[c, 1] - corners[a, 1]
        share = ONE / (x1 * y2 - x2 * y1)
        second = min(max((x * y2 - x2 * y) * share, ZERO), ONE)
        third = min(max((x1 * y - x * y1) * share, ZERO), ONE - second)
        w0, w1, w2 = corners[a, 2], corners[b, 2], corners[c, 2]
        w = w0 + second * (w1 - w0) + third * (w2 - w0)
        u[r], v[r], t[r] = second * w1 / w, third * w2 / w, ONE / w
