"""Parts made ready for rays: of diameter one around the origin, with smooth normals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError  # type: ignore[import-untyped]

from tasks.geometry.jit import Floats, Ints, fused
from tasks.recognition.meshes.parts import Part

_CREASE = np.float32(np.cos(np.deg2rad(35)))
"""Faces that meet at less are one curved surface: CAD programs turn a circle in steps of 5 to 30 degrees."""
_CROWD = 256  # faces at one corner, such as the middle of a fan, beyond which each keeps its own normal
_MAX_HULL = 50_000  # points whose hull is looked for: that of a scanned ball takes ten seconds
_MAX_OUTLINE = 512  # points of the hull that are projected to find where a part is on an image
_BEHIND = np.float32(1e-4)  # diameters that a corner may stand out from the plane of a face behind which it is
_AT_ONCE = 10_000  # faces
_MAX_COMPARED = 200_000_000  # faces with corners: half a second


class Solid:
    """A part that rays can hit; one is shared by all threads."""

    def __init__(self, part: Part) -> None:
        self.name, self.diameter, self.center = part.name, part.diameter, part.center
        points = ((part.vertices - part.center) / part.diameter).astype(np.float32)
        self.faces: Ints = part.faces.astype(np.int32)
        self.points: Floats = points
        self.normals: Floats = corner_normals(points, self.faces)  # (F, 3, 3)
        corners = hull_corners(points)
        self.outline: Floats = outline(corners)  # (H, 3)
        self.outward = part.outward
        self.outer: Floats = outer_normals(points, self.faces, corners, part.outward)  # (F, 3)
        self.box: Floats = np.stack([points.min(axis=0), points.max(axis=0)])
        self.scene = EmbreeScene(robust=False)  # a quarter faster; no ray of millions slipped through an edge
        TriangleMesh(self.scene, points, self.faces)
        self.scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))  # builds the tree, once

    def first_hit(self, origin: Floats, directions: Floats) -> tuple[Ints, Floats, Floats, Floats]:
        """Return what rays from one point hit first.

        Args:
            origin: (3,).
            directions: (N, 3), of any length.

        Returns:
            face (N,), -1 for none; its two barycentric coordinates (N,), of the second and third corner; and the
            distance (N,) in lengths of the direction.
        """
        origins = np.broadcast_to(origin, directions.shape)
        hit: dict[str, Any] = self.scene.run(origins, directions, output=1)
        return hit["primID"], hit["u"], hit["v"], hit["tfar"]

    def blocks(self, origins: Floats, directions: Floats, reach: Floats) -> NDArray[np.bool_]:
        """Return which rays (N, 3) hit anything within `reach` (N,) lengths of their direction."""
        hit: Ints = self.scene.run(origins, directions, dists=reach, query="OCCLUDED")
        return hit >= 0


def corner_normals(points: Floats, faces: Ints) -> Floats:
    """Return the unit normal at each corner of each face, (F, 3, 3): smooth across curved surfaces, sharp at edges."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    own = np.cross(b - a, c - a)  # as long as twice the area: large faces count more
    order = np.argsort(faces.reshape(-1), kind="stable")
    starts = np.searchsorted(faces.reshape(-1)[order], np.arange(len(points) + 1))
    normals = np.empty((len(faces), 3, 3), np.float32)
    _smooth(own, faces, (order // 3).astype(np.int32), starts.astype(np.int64), normals)
    return normals


@fused
def _smooth(own: Floats, faces: Ints, around: Ints, starts: NDArray[np.int64], normals: Floats) -> None:
    for face in range(len(faces)):
        x, y, z = own[face, 0], own[face, 1], own[face, 2]
        length = np.sqrt(x * x + y * y + z * z) + np.float32(1e-30)
        for k in range(3):
            first, last = starts[faces[face, k]], starts[faces[face, k] + 1]
            sx, sy, sz = x, y, z
            if last - first <= _CROWD:
                for i in range(first, last):
                    other = around[i]
                    if other == face:
                        continue
                    ox, oy, oz = own[other, 0], own[other, 1], own[other, 2]
                    size = np.sqrt(ox * ox + oy * oy + oz * oz)
                    if x * ox + y * oy + z * oz > _CREASE * size * length:
                        sx, sy, sz = sx + ox, sy + oy, sz + oz
            norm = np.sqrt(sx * sx + sy * sy + sz * sz) + np.float32(1e-30)
            normals[face, k, 0], normals[face, k, 1], normals[face, k, 2] = sx / norm, sy / norm, sz / norm


def hull_corners(points: Floats) -> Floats:
    """Return points (H, 3) whose hull holds all others; all of them, where they are very many or flat."""
    if len(points) > _MAX_HULL:
        return points
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:  # flat
        return points


def outline(corners: Floats) -> Floats:
    """Return points whose hull holds these corners, or nearly so: themselves, or the extreme ones of very many."""
    if len(corners) <= _MAX_OUTLINE:
        return corners
    directions = sphere_directions(_MAX_OUTLINE).astype(np.float32)
    chosen = np.unique([np.argmax(corners @ direction) for direction in directions])
    return corners[chosen] * np.float32(1.01)


def outer_normals(points: Floats, faces: Ints, corners: Floats, outward: bool) -> Floats:
    """Return the unit normals (F, 3) of faces that have all of the solid behind them, and zeros for all others.

    Nothing of the solid stands in the way of what comes from the front of such a face.

    Args:
        corners: (H, 3), whose hull holds all points.
        outward: whether only fronts of faces can be seen; none is told of a solid that is not so, or has very many.
    """
    if not outward or len(faces) * len(corners) > _MAX_COMPARED:
        return np.zeros((len(faces), 3), np.float32)
    a, b, c = (points[faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + np.float32(1e-30)
    level = np.einsum("ij,ij->i", normals, a) + _BEHIND
    for first in range(0, len(faces), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        normals[some][(normals[some] @ corners.T).max(axis=1) > level[some]] = 0
    return normals


def sphere_directions(n: int) -> NDArray[np.float64]:
    """Return n unit vectors (n, 3) spread evenly over the sphere.

    Source: Gonzalez 2010, "Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices".
    """
    i = np.arange(n) + 0.5
    z = 1 - 2 * i / n
    turn = np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)


def make_solids(parts: Sequence[Part]) -> list[Solid]:
    """Return the solids of parts, in their order."""
    return [Solid(part) for part in parts]
