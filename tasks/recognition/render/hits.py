"""What rays from the camera meet first, and where."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.recognition.render.composition import Camera, Ground, Placed
from tasks.recognition.render.raster import first_seen, is_quicker

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Rows = NDArray[np.uint32]

F = np.float32
U = np.uint64  # numba looks for negative indices in all others
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
        self.u, self.v = np.empty(n, np.float32), np.empty(n, np.float32)
        self.t = np.full(n, np.inf, np.float32)  # depth
        self.points, self.normals = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)

    def add(self, number: int, placed: Placed, rows: Rows, camera: Camera | None = None) -> NDArray[np.bool_]:
        """Trace some of the rays at a solid; return which of them hit it, seen or not.

        Args:
            number: of the solid.
            placed: the solid.
            rows: (M,) of the rays.
            camera: of an image, where the rays are those of all its pixels; None: any rays.
        """
        if camera is not None and is_quicker(placed, len(rows)):
            face, u, v, t = first_seen(placed, camera, rows)
        else:
            own = np.empty((len(rows), 3), np.float32)
            _own_rays(rows, self.rays, placed.turn, ONE / F(placed.size), own)
            face, u, v, t = placed.solid.first_hit(placed.inside(np.zeros(3, np.float32)), own)
        _keep_nearest(rows, face, u, v, t, number, self.face, self.u, self.v, self.t, self.owner)
        return face >= 0

    def finish(self, objects: Sequence[Placed], regions: Sequence[Rows], ground: Ground | None) -> None:
        """Find points and normals, camera frame, of what was hit; what hit no solid may hit the ground."""
        for number, (placed, rows) in enumerate(zip(objects, regions, strict=True)):
            _place(
                *(rows, number, self.rays, self.owner, self.face, self.u, self.v, self.t),
                *(placed.solid.normals, placed.turn, self.points, self.normals),
            )
        if ground is not None:
            level = F(ground.normal @ ground.point)
            _lay(self.rays, ground.normal, level, len(objects), self.owner, self.t, self.points, self.normals)


def pixel_rays(camera: Camera) -> Floats:
    """Return x and y (N, 2) of the directions of depth one through the middles of all pixels, row by row."""
    at = np.arange(camera.size, dtype=np.float64) + 0.5
    rays = np.empty((camera.size, camera.size, 2), np.float32)
    rays[..., 0] = (at - camera.cx) / camera.focal
    rays[..., 1] = ((at - camera.cy) / camera.focal)[:, None]
    return rays.reshape(-1, 2)


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
    face: Ints,
    u: Floats,
    v: Floats,
    t: Floats,
    number: int,
    all_face: Ints,
    all_u: Floats,
    all_v: Floats,
    all_t: Floats,
    owner: Ints,
) -> None:
    for r in range(U(len(rows))):
        i = U(rows[r])
        if face[r] >= 0 and t[r] < all_t[i]:
            all_face[i], all_u[i], all_v[i], all_t[i], owner[i] = face[r], u[r], v[r], t[r], number


@fused
def _place(
    rows: Rows,
    number: int,
    rays: Floats,
    owner: Ints,
    face: Ints,
    u: Floats,
    v: Floats,
    t: Floats,
    corners: Floats,
    turn: Floats,
    points: Floats,
    normals: Floats,
) -> None:
    """Write points and normals (N, 3) of the rows that see this solid; normals face the camera.

    Args:
        corners: (F, 3, 3) unit normals at the corners of its faces, its own frame.
    """
    for r in range(U(len(rows))):
        i = U(rows[r])
        if owner[i] != number:
            continue
        f, b, c = U(face[i]), u[i], v[i]
        a = ONE - b - c
        x = a * corners[f, U(0), 0] + b * corners[f, U(1), 0] + c * corners[f, U(2), 0]
        y = a * corners[f, U(0), 1] + b * corners[f, U(1), 1] + c * corners[f, U(2), 1]
        z = a * corners[f, U(0), 2] + b * corners[f, U(1), 2] + c * corners[f, U(2), 2]
        nx = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
        ny = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
        nz = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
        norm = ONE / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-20))
        if nx * rays[i, 0] + ny * rays[i, 1] + nz > ZERO:
            norm = -norm
        normals[i, 0], normals[i, 1], normals[i, 2] = nx * norm, ny * norm, nz * norm
        points[i, 0], points[i, 1], points[i, 2] = t[i] * rays[i, 0], t[i] * rays[i, 1], t[i]


@fused
def _lay(
    rays: Floats,
    normal: Floats,
    level: np.float32,
    number: int,
    owner: Ints,
    t: Floats,
    points: Floats,
    normals: Floats,
) -> None:
    """Let the rays that meet the plane normal . x = level before anything else hit it."""
    for i in range(U(len(rays))):
        down = rays[i, 0] * normal[0] + rays[i, 1] * normal[1] + normal[2]
        if down * level <= ZERO:
            continue
        depth = level / down
        if depth < t[i]:
            owner[i], t[i] = number, depth
            points[i, 0], points[i, 1], points[i, 2] = depth * rays[i, 0], depth * rays[i, 1], depth
            normals[i, 0], normals[i, 1], normals[i, 2] = normal[0], normal[1], normal[2]
