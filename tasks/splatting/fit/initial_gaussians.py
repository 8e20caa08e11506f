"""Places the first Gaussians: one on each reconstructed point, or at random."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from tasks.base.errors import DatasetError
from tasks.geometry.harmonics import C0
from tasks.splatting.fit.presets import Settings
from tasks.splatting.render.gaussians import Gaussians

N_NEIGHBOURS = 3


def start_gaussians(
    points: NDArray[np.float32], colors: NDArray[np.uint8], scene_size: float, settings: Settings
) -> Gaussians:
    """Return the first Gaussians, on the CPU: round, as wide as their nearest neighbours are away.

    Source: 3DGS (arXiv:2308.04079) sec. 5.1: the mean distance to the three nearest ones; upstream gsplat
    examples/simple_trainer.py. More points than `cap_max` are thinned out at random.

    Args:
        points: (P, 3) world units; not looked at with init_type "random". None at all: the same.
        colors: (P, 3) RGB.
        scene_size: world units, as `scene_size` in tasks/splatting/fit/training_images.py.
        settings: of the fit.

    Raises:
        DatasetError: one to three points, or all at one place.
    """
    rng = np.random.default_rng((settings.seed, 0))
    if settings.init_type == "random" or len(points) == 0:  # cameras that came without points
        points, colors = _anywhere(scene_size, settings, rng)
    if len(points) > settings.cap_max:
        chosen = np.sort(rng.choice(len(points), settings.cap_max, replace=False))
        points, colors = points[chosen], colors[chosen]
    n = len(points)
    distances = neighbour_distances(points)
    rgb = torch.from_numpy(colors.astype(np.float32) / 255)
    n_higher = (settings.sh_degree + 1) ** 2 - 1
    scales = torch.from_numpy(np.log(distances * settings.init_scale).astype(np.float32))
    return Gaussians(
        means=torch.from_numpy(points.astype(np.float32)),
        scales=scales[:, None].repeat(1, 3),
        quats=torch.from_numpy(rng.standard_normal((n, 4)).astype(np.float32)),
        opacities=torch.full((n,), math.log(settings.init_opa / (1 - settings.init_opa))),
        sh0=((rgb - 0.5) / C0)[:, None],
        shN=torch.zeros(n, n_higher, 3),
    )


def _anywhere(
    scene_size: float, settings: Settings, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return points and colours, even over a cube around the origin."""
    half = settings.init_extent * scene_size
    points = rng.uniform(-half, half, (settings.init_num_pts, 3)).astype(np.float32)
    return points, rng.integers(0, 256, (settings.init_num_pts, 3), dtype=np.uint8)


def neighbour_distances(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far each point is from its nearest ones, as the root of their mean square, (P,).

    Raises:
        DatasetError: too few points, or all at one place.
    """
    if len(points) <= N_NEIGHBOURS:
        raise DatasetError(
            f"found {len(points)} point(s) to start from, need at least {N_NEIGHBOURS + 1}: the reconstruction has "
            "next to none; take init_type random, or film with more texture and overlap"
        )
    spread = float(np.ptp(points, axis=0).max())
    if not spread > 0:
        raise DatasetError(f"all {len(points)} points to start from lie at one place, need them apart")
    found, _ = cKDTree(points).query(points, k=N_NEIGHBOURS + 1)
    squares = (np.asarray(found, dtype=np.float64)[:, 1:] ** 2).mean(1)
    # Duplicate points have distance 0, and a Gaussian of size 0 would never be drawn.
    even = (spread / len(points) ** (1 / 3)) ** 2
    return np.sqrt(np.maximum(squares, 1e-4 * even))
