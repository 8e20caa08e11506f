"""What rays from the camera meet first, and where."""

import numpy as np

from tasks.geometry.jit import F, Floats, Ints, Rows, U, fused
from tasks.recognition.render.composition import Box, Camera, Ground, Placed
from tasks.recognition.render.raster import Seen, draw_faces, is_quicker, place

ONE, ZERO = F(1), F(0)


class Hits:
    """What each of a list of rays sees first.

    Args:
        rays: (N, 2) x and y of directions of depth one, from the camera.
    """

    def __init__(self, rays: Floats) -> None:
        n = len(rays)
        self.rays = rays
        self.owner = np.full(n, -1, np.int32)  # number of the solid, beyond the last one the ground, -1 nothing
        self.face = np.full(n, -1, np.int32)
        self.t = np.full(n, np.inf, np.float32)  # depth
        self.points, self.normals = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)  # where any was hit

    @property
    def seen(self) -> Seen:
        """All of it, for kernels."""
        return self.rays, self.owner, self.face, self.t, self.points, self.normals

    def draw(self, number: int, placed: Placed, box: Box, camera: Camera) -> int:
        """Let a solid be seen by the rays of all pixels of an image; return how many meet it, hidden or not."""
        if is_quicker(placed, box):
            return draw_faces(number, placed, camera, box, self.seen)
        return self.trace(number, placed, placed.region(camera))

    def trace(self, number: int, placed: Placed, rows: Rows) -> int:
        """Trace some (M,) of the rays at a solid; return how many meet it, hidden or not."""
        own = np.empty((len(rows), 3), np.float32)
        _own_rays(rows, self.rays, placed.turn, ONE / F(placed.size), own)
        found = placed.solid.first_hit(placed.inside(np.zeros(3, np.float32)), own)
        return int(_keep_nearest(rows, *found, number, placed.solid.normals, placed.turn, self.seen))

    def lay(self, number: int, ground: Ground) -> None:
        """Let what has met no solid before meet the ground."""
        _lay(ground.normal, F(ground.normal @ ground.point), number, self.seen)


def pixel_rays(camera: Camera) -> Floats:
    """Return x and y (N, 2) of the directions of depth one through the middles of all pixels, row by row."""
    at = np.arange(camera.size) + 0.5
    rays = np.empty((camera.size, camera.size, 2), np.float32)
    columns, rows = ((at - middle) / camera.focal for middle in (camera.cx, camera.cy))
    _spread(columns.astype(np.float32), rows.astype(np.float32), rays)
    return rays.reshape(-1, 2)


@fused
def _spread(columns: Floats, rows: Floats, rays: Floats) -> None:
    for row in range(U(len(rows))):
        for column in range(U(len(columns))):
            rays[row, column, 0], rays[row, column, 1] = columns[column], rows[row]


@fused
def _own_rays(rows: Rows, rays: Floats, turn: Floats, scale: np.float32, own: Floats) -> None:
    """Write rays (M, 3) in the frame of a solid: the transpose of its turn, over its size."""
    a00, a01, a02 = turn[0, 0] * scale, turn[0, 1] * scale, turn[0, 2] * scale
    a10, a11, a12 = turn[1, 0] * scale, turn[1, 1] * scale, turn[1, 2] * scale
    a20, a21, a22 = turn[2, 0] * scale, turn[2, 1] * scale, turn[2, 2] * scale
    for r in range(U(len(rows))):
        i = U(rows[r])
        x, y = rays[i, 0], rays[i, 1]
        own[r, 0] = a00 * x + a10 * y + a20
        own[r, 1] = a01 * x + a11 * y + a21
        own[r, 2] = a02 * x + a12 * y + a22


@fused
def _keep_nearest(
    rows: Rows,
    found: Ints,
    u: Floats,
    v: Floats,
    depth: Floats,
    number: int,
    corner_normals: Floats,
    turn: Floats,
    seen: Seen,
) -> int:
    """Write what was found (M,) for some rays where that is nearer; return for how many anything was."""
    _, owner, face, t, _, _ = seen
    n = 0
    for r in range(U(len(rows))):
        i = U(rows[r])
        if found[r] < 0:
            continue
        n += 1
        if depth[r] < t[i]:
            owner[i], face[i], t[i] = number, found[r], depth[r]
            place(i, U(found[r]), u[r], v[r], corner_normals, turn, seen)
    return n


@fused
def _lay(normal: Floats, level: np.float32, number: int, seen: Seen) -> None:
    """Let the rays that meet the plane normal . x = level before anything else hit it."""
    rays, owner, _, t, points, normals = seen
    for i in range(U(len(rays))):
        down = rays[i, 0] * normal[0] + rays[i, 1] * normal[1] + normal[2]
        if down * level <= ZERO:
            continue
        depth = level / down
        if depth < t[i]:
            owner[i], t[i] = number, depth
            points[i, 0], points[i, 1], points[i, 2] = depth * rays[i, 0], depth * rays[i, 1], depth
            normals[i, 0], normals[i, 1], normals[i, 2] = normal[0], normal[1], normal[2]
