"""Finds what the pixels of an image see of a solid, face by face, where that is quicker than rays."""

import numpy as np

from tasks.geometry.jit import F, Floats, Ints, U, fused
from tasks.recognition.render.composition import Box, Camera, Placed

Seen = tuple[Floats, Ints, Ints, Floats, Floats, Floats]
"""Of each pixel, row by row: x and y of its ray (N, 2); owner, face and depth (N,), point and normal (N, 3)."""

ONE, ZERO = F(1), F(0)
_PIXELS_PER_FACE = 1.0
"""A face takes as long as a ray or so; from more faces than pixels on, rays through the tree are quicker."""
_NEAREST = 0.01  # diameters: what comes nearer to the camera's plane has no finite projection


def is_quicker(placed: Placed, box: Box) -> bool:
    """Return whether a solid should be drawn face by face, where a box is around its pixels."""
    top, left, bottom, right = box
    few = len(placed.solid.faces) * _PIXELS_PER_FACE < (bottom - top) * (right - left)
    return few and bool(placed.outline[:, 2].min() > _NEAREST * placed.size)


def draw_faces(number: int, placed: Placed, camera: Camera, box: Box, seen: Seen) -> int:
    """Write what the middles of all pixels see of a solid where it is nearer; return how many it covers.

    A pixel belongs to the face that its middle lies in; one on the edge of two belongs to one of them.

    Args:
        number: of the solid, its owner.
        placed: all of it before the camera.
        box: around its pixels.
    """
    solid, n = placed.solid, camera.size * camera.size
    corners = np.empty((len(solid.points), 3), np.float32)
    view = (F(camera.focal), F(camera.cx), F(camera.cy))
    _project(solid.points, placed.turn, placed.shift, F(placed.size), *view, corners)
    front, nearness = np.full(n, -1, np.int32), np.zeros(n, np.float32)
    _fill(corners, solid.faces, camera.size, solid.outward, front, nearness)
    return int(_locate((camera.size, *box), corners, solid.faces, front, number, solid.normals, placed.turn, seen))


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
def _fill(corners: Floats, faces: Ints, size: int, fronts_only: bool, front: Ints, nearness: Floats) -> None:
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
        x1, y1, x2, y2 = xs[1] - xs[0], ys[1] - ys[0], xs[2] - xs[0], ys[2] - ys[0]
        area = x1 * y2 - x2 * y1
        if area == ZERO or (fronts_only and area > ZERO):
            continue
        top, bottom = max(np.ceil(min(ys[0], ys[1], ys[2])), ZERO), min(np.floor(max(ys[0], ys[1], ys[2])), last)
        if top > bottom or max(xs[0], xs[1], xs[2]) < ZERO or min(xs[0], xs[1], xs[2]) > last:
            continue
        w0, w1, w2 = corners[a, 2], corners[b, 2], corners[c, 2]
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
                    front[base + column] = np.int32(f)


@fused
def _locate(
    window: tuple[int, int, int, int, int],
    corners: Floats,
    faces: Ints,
    front: Ints,
    number: int,
    corner_normals: Floats,
    turn: Floats,
    seen: Seen,
) -> int:
    """Write what pixels see where that is nearer; return how many have a face.

    Args:
        window: side of the image; first row and column, and those after the last, of where faces are.
        front: (N,) the nearest face.
    """
    size, top, left, bottom, right = window
    rays, owner, face, t, points, normals = seen
    n = 0
    for row in range(U(top), U(bottom)):
        for column in range(U(left), U(right)):
            i = row * U(size) + column
            f = front[i]
            if f < 0:
                continue
            n += 1
            own = U(f)
            a, b, c = U(faces[own, 0]), U(faces[own, 1]), U(faces[own, 2])
            x, y = F(column) - corners[a, 0], F(row) - corners[a, 1]
            x1, y1 = corners[b, 0] - corners[a, 0], corners[b, 1] - corners[a, 1]
            x2, y2 = corners[c, 0] - corners[a, 0], corners[c, 1] - corners[a, 1]
            share = ONE / (x1 * y2 - x2 * y1)
            second = min(max((x * y2 - x2 * y) * share, ZERO), ONE)
            third = min(max((x1 * y - x * y1) * share, ZERO), ONE - second)
            w0, w1, w2 = corners[a, 2], corners[b, 2], corners[c, 2]
            depth = ONE / (w0 + second * (w1 - w0) + third * (w2 - w0))
            if depth < t[i]:
                owner[i], face[i], t[i] = number, f, depth
                place(i, own, second * w1 * depth, third * w2 * depth, corner_normals, turn, seen)
    return n


@fused
def place(
    i: np.uint64, f: np.uint64, u: np.float32, v: np.float32, corner_normals: Floats, turn: Floats, seen: Seen
) -> None:
    """Write the point that a ray sees at its depth, and the normal there, towards the camera.

    Args:
        u, v: barycentric coordinates on the face, of its second and third corner.
        corner_normals: (F, 3, 3) unit normals at the corners of faces, the solid's own frame.
    """
    rays, _, _, t, points, normals = seen
    n = corner_normals[f]
    w = ONE - u - v
    x = w * n[0, 0] + u * n[1, 0] + v * n[2, 0]
    y = w * n[0, 1] + u * n[1, 1] + v * n[2, 1]
    z = w * n[0, 2] + u * n[1, 2] + v * n[2, 2]
    nx = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
    ny = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
    nz = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    norm = ONE / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-20))
    if nx * rays[i, 0] + ny * rays[i, 1] + nz > ZERO:
        norm = -norm
    normals[i, 0], normals[i, 1], normals[i, 2] = nx * norm, ny * norm, nz * norm
    points[i, 0], points[i, 1], points[i, 2] = t[i] * rays[i, 0], t[i] * rays[i, 1], t[i]
