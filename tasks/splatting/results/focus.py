"""Finds the point that a set of cameras looks at, and their upward direction."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.splatting.render.cameras import Camera


def up_of(cameras: Sequence[Camera]) -> NDArray[np.float64]:
    """Return the mean up of the cameras as unit vector (3,); the first one's where they cancel out."""
    ups = -np.stack([camera.world_to_camera[1, :3] for camera in cameras])  # (C, 3)
    up = ups.mean(axis=0)
    if np.linalg.norm(up) < 1e-6:
        up = ups[0]
    return np.asarray(up / np.linalg.norm(up))


def focus_of(cameras: Sequence[Camera]) -> NDArray[np.float64]:
    """Return the point (3,) that lies nearest to all lines of sight, in front of the cameras.

    Where the lines (nearly) run in parallel, or meet behind the cameras, it is as far ahead of the middle of them as
    they are spread out, at least 1.
    """
    centers = np.stack([camera.center for camera in cameras])
    ahead = np.stack([camera.world_to_camera[2, :3] for camera in cameras])
    across = np.eye(3) - ahead[:, :, None] * ahead[:, None, :]  # (C, 3, 3) onto the plane across each line
    matrix = across.mean(axis=0)
    if np.linalg.eigvalsh(matrix)[0] > 1e-3:
        point = np.linalg.solve(matrix, np.einsum("nij,nj->i", across, centers) / len(cameras))
        if np.einsum("ni,ni->n", ahead, point - centers).mean() > 0:
            return np.asarray(point)
    middle = centers.mean(axis=0)
    spread = float(np.linalg.norm(centers - middle, axis=1).max())
    mean = ahead.mean(axis=0)
    mean = mean if np.linalg.norm(mean) > 1e-6 else ahead[0]
    return np.asarray(middle + mean / np.linalg.norm(mean) * max(spread, 1.0))
