"""How solids lie on a plane, and where, so that none goes through another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError  # type: ignore[import-untyped]

from tasks.recognition.render.solids import Solid

Points = NDArray[np.float64]

_SAME_PLANE = 1e-3  # of unit normals, and of distances in diameters
_TRIES = 24
_GAP = 0.01  # diameters between two solids, at least


@dataclass(frozen=True, slots=True)
class RestingPoses:
    """Rotations in which a solid stays as it is put, z up."""

    turns: list[Points]  # (3, 3) each
    weights: Points  # (n,) of sum 1: how often a solid that is thrown comes to rest so


def resting_poses(solid: Solid) -> RestingPoses:
    """Return the stable poses of a solid: on the faces of its hull above which its centre of mass is.

    The weight of a face is the solid angle under which the centre of mass sees it.

    Source: Goldberg et al. 1999, "Part Pose Statistics: Estimators and Experiments".
    """
    points = solid.outline.astype(np.float64)  # all points of a scan have a hull of a million faces
    try:
        hull = ConvexHull(points)
    except QhullError:  # flat: on either side
        normal = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][-1]
        return RestingPoses([onto_plane(normal), onto_plane(-normal)], np.array([0.5, 0.5]))
    middle = _center_of_mass(solid)
    # A face of the hull comes as triangles; the centre of mass is above one of them at most.
    planes = hull.equations[_below(middle, points[hull.simplices], hull.equations)]
    _, first = np.unique(np.round(planes / _SAME_PLANE).astype(np.int64), axis=0, return_index=True)
    turns, weights = [], []
    corners = points[hull.vertices]
    for normal, offset in ((row[:3], row[3]) for row in planes[np.sort(first)]):
        touching = corners[corners @ normal + offset > -_SAME_PLANE]
        if weight := _hold(touching, normal, offset, middle):
            turns.append(onto_plane(normal))
            weights.append(weight)
    if not turns:
        turns, weights = [onto_plane(row[:3]) for row in hull.equations], [1.0] * len(hull.equations)
    return RestingPoses(turns, np.array(weights) / np.sum(weights))


def _below(middle: Points, triangles: Points, planes: Points) -> NDArray[np.bool_]:
    """Return which triangles (N, 3, 3), on planes (N, 4), a point is right above, their edges included."""
    foot = middle - (planes[:, :3] @ middle + planes[:, 3])[:, None] * planes[:, :3]
    edges = np.roll(triangles, -1, axis=1) - triangles
    turns = np.cross(edges, foot[:, None] - triangles)
    sides = np.einsum("ikj,ij->ki", turns, planes[:, :3])
    slack = 1e-9
    return np.asarray((np.min(sides, axis=0) >= -slack) | (np.max(sides, axis=0) <= slack))


def _center_of_mass(solid: Solid) -> Points:
    """Return the centre (3,) of what the faces enclose, of its middle where they enclose nothing.

    The sum of tetrahedra over the faces with the origin.
    """
    a, b, c = (solid.points[solid.faces[:, k]].astype(np.float64) for k in range(3))
    volumes = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
    total = volumes.sum()
    if total < 1e-6:
        return np.zeros(3)
    middle = ((a + b + c) / 4 * volumes[:, None]).sum(axis=0) / total
    return middle if np.linalg.norm(middle) < 0.5 else np.zeros(3)


def _hold(touching: Points, normal: Points, offset: float, middle: Points) -> float:
    """Return the weight of a face of the hull, 0 where the solid would tip over its edge."""
    height = -(middle @ normal + offset)
    turn = onto_plane(normal)
    flat, above = (touching @ turn.T)[:, :2], (turn @ middle)[:2]
    try:
        face = ConvexHull(flat)
    except QhullError:
        return 0.0
    if height <= 0 or (face.equations[:, :2] @ above + face.equations[:, 2]).max() > -1e-4:
        return 0.0
    return _solid_angle(touching[face.vertices] - middle)


def _solid_angle(corners: Points) -> float:
    """Return the solid angle (sr) under which a convex polygon (N, 3) is seen from the origin.

    Source: Van Oosterom, Strackee 1983, "The Solid Angle of a Plane Triangle", eq. 8; the triangles of a fan.
    """
    a, b, c = corners[:1], corners[1:-1], corners[2:]
    la, lb, lc = (np.linalg.norm(x, axis=1) for x in (a, b, c))
    volume = np.abs((a * np.cross(b, c)).sum(axis=1))
    rest = la * lb * lc + (a * b).sum(axis=1) * lc + (a * c).sum(axis=1) * lb + (b * c).sum(axis=1) * la
    return float(2 * np.arctan2(volume, rest).sum())


def onto_plane(normal: Points) -> Points:
    """Return a rotation (3, 3) that turns an outer normal (3,) straight down."""
    down = -normal / np.linalg.norm(normal)  # becomes z
    x = np.cross(down, [1.0, 0.0, 0.0] if abs(down[0]) < 0.9 else [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(down, x), down])


@dataclass(frozen=True, slots=True)
class Footprint:
    """A convex polygon on the plane."""

    corners: Points  # (n, 2)
    normals: Points  # (m, 2) outer, of its edges

    @classmethod
    def around(cls, points: Points) -> "Footprint":
        """Return the hull of points (n, 2)."""
        try:
            hull = ConvexHull(points)
        except QhullError:  # a line
            low, high = points.min(axis=0), points.max(axis=0)
            box = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
            return cls(box, np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        return cls(points[hull.vertices], hull.equations[:, :2])

    def overlaps(self, other: "Footprint", away: Points, other_away: Points) -> bool:
        """Return whether two footprints, moved by (2,) each, come closer than the gap: no edge has all between."""
        mine, theirs = self.corners + away, other.corners + other_away
        for normals, inner, outer in ((self.normals, mine, theirs), (other.normals, theirs, mine)):
            if ((outer @ normals.T).min(axis=0) - (inner @ normals.T).max(axis=0)).max() > _GAP:
                return False
        return True


def scatter(footprints: Sequence[Footprint], spread: float, rng: np.random.Generator) -> list[Points | None]:
    """Return a place (2,) around the origin for each footprint, None for one that found no room.

    Args:
        spread: deviation of the first try; each further one goes farther out.
    """
    places: list[Points | None] = []
    for number, footprint in enumerate(footprints):
        found = None
        for attempt in range(_TRIES):
            place = rng.normal(0, spread * (1 + attempt / 6), 2)
            if not any(
                other is not None and footprint.overlaps(footprints[earlier], place, other)
                for earlier, other in enumerate(places[:number])
            ):
                found = place
                break
        places.append(found)
    return places
