"""Similarity transforms of the world, and the one that best aligns two camera paths."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.splatting.render.cameras import Camera

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Similarity:
    """A change of world coordinates: x becomes scale * rotation @ x + translation."""

    scale: float  # greater than 0
    rotation: Points  # (3, 3), determinant 1
    translation: Points  # (3,)

    def points(self, points: NDArray[np.floating[Any]]) -> Points:
        """Return points (N, 3) in the new world."""
        moved: Points = self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation
        return moved

    def camera(self, camera: Camera) -> Camera:
        """Return the camera in the new world; its image stays what it is, its depths are scaled."""
        turned = camera.world_to_camera[:3, :3] @ self.rotation.T
        matrix = np.eye(4)
        matrix[:3, :3] = turned
        matrix[:3, 3] = self.scale * camera.world_to_camera[:3, 3] - turned @ self.translation
        return replace(camera, world_to_camera=matrix)

    def inverse(self) -> "Similarity":
        """Return the way back."""
        turned = self.rotation.T
        return Similarity(1 / self.scale, turned, -turned @ self.translation / self.scale)


@dataclass(frozen=True, slots=True)
class Alignment:
    """How one path of cameras lies on another."""

    similarity: Similarity  # from the estimated world to the true one
    rms_error: float  # of the camera centres, true world units
    relative_error: float  # the same as a share of the largest distance between two true centres


def align(estimated_centers: Points, true_centers: Points) -> Alignment:
    """Return the similarity that brings estimated camera centres nearest to the true ones, and what is left.

    Args:
        estimated_centers, true_centers: (N, 3) in the same order, at least three, not all on one line.

    Raises:
        ValueError: they are not of one shape, too few, or all on one line: the turn about it would be arbitrary.

    Source: Umeyama 1991, Least-squares estimation of transformation parameters between two point patterns.
    """
    source, target = np.asarray(estimated_centers, np.float64), np.asarray(true_centers, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise ValueError(f"found centres {source.shape} and {target.shape}, need twice (N, 3) with N at least 3")
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    if singular[1] <= 1e-12 * singular[0]:
        raise ValueError("the camera centres lie on one line; need a path that bends to align by")
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ flip @ vt
    scale = float((singular * np.diag(flip)).sum() / (a**2).sum(1).mean())
    similarity = Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
    rms = float(np.sqrt(((similarity.points(source) - target) ** 2).sum(1).mean()))
    return Alignment(similarity, rms, rms / largest_distance(target))


def largest_distance(points: Points) -> float:
    """Return the distance of the two of (N, 3) points that are farthest apart."""
    return float(np.sqrt(max(((points - point) ** 2).sum(1).max() for point in points)))
