"""Fits of a scene whose Gaussians are known."""

import time
from collections.abc import Callable
from typing import Any

import torch

from tasks.splatting.fit.initial_gaussians import start_gaussians
from tasks.splatting.fit.loop import Fit, FitData
from tasks.splatting.fit.presets import settings
from tasks.splatting.fit.scene import Scene, split
from tasks.splatting.fit.training_images import TrainingImages, scene_size
from tasks.splatting.params import SplatParams
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.rasterizer import Rasterizer
from tasks.trial.splats.scene import arc, make_scene, true_gaussians

__all__ = ["arc", "make_fit", "make_scene", "true_gaussians"]

CPU = torch.device("cpu")


def make_fit(
    scene: Scene,
    *,
    rasterizer: Rasterizer | None = None,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    **values: Any,
) -> Fit:
    """Return a fit of 200 steps on the CPU; `values` are of its parameters."""
    given: dict[str, Any] = {"preset": "quick", "max_steps": 200, "cap_max": 500, "test_every": 4} | values
    params = SplatParams(**given)
    chosen = settings(params, "cpu")
    train, held_out = split(scene.views, params.test_every)
    size = scene_size(scene)
    data = FitData(
        TrainingImages(train, chosen.max_side, CPU),
        TrainingImages(held_out, chosen.max_side, CPU),
        start_gaussians(scene.points, scene.colors, size, chosen),
        size,
    )
    return Fit(data, chosen, rasterizer or CpuRasterizer(num_threads=1), CPU, deadline=deadline, clock=clock)
