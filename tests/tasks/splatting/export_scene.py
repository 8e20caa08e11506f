"""A splat, cameras around it and a rasteriser, for the tests of what is handed on."""

import numpy as np
import torch

from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rendered
from tests.tasks.splatting import reference


def splat(n: int, degree: int, seed: int = 0) -> Gaussians:
    """Return a ball of Gaussians of radius 1: y is down, so the red ones are below and the blue ones above."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(n, 3))
    means *= (rng.random((n, 1)) ** (1 / 3)) / np.linalg.norm(means, axis=1, keepdims=True)
    size = np.log(0.9 / max(n, 1) ** (1 / 3))
    colors = 0.5 + 0.45 * np.stack([means[:, 1], means[:, 0] * np.sign(means[:, 2]), -means[:, 1]], axis=1)
    parts = {
        "means": means,
        "scales": rng.normal(size, 0.5, (n, 3)),
        "quats": rng.normal(size=(n, 4)),
        "opacities": rng.normal(0.5, 1.5, n),
        "sh0": ((colors - 0.5) / 0.28209479177387814)[:, None],
        "shN": rng.normal(0, 0.15, (n, (degree + 1) ** 2 - 1, 3)),
    }
    return Gaussians(**{name: torch.from_numpy(values).float() for name, values in parts.items()})


def looking(eye: np.ndarray, target: np.ndarray, down: tuple[float, float, float] = (0, 1, 0), **lens: float) -> Camera:
    """Return a camera at `eye` that looks at `target`."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(down, ahead)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead])
    pose[:3, 3] = -pose[:3, :3] @ eye
    made = {"name": "a.jpg", "width": 96, "height": 64, "fx": 90.0, "fy": 92.0, "cx": 47.0, "cy": 33.5} | lens
    return Camera(world_to_camera=pose, **made)


def ring(n: int, radius: float = 3.0, y: float = -1.0, **lens: float) -> list[Camera]:
    """Return cameras on a circle around the origin, all looking at it; `y` is down."""
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    eyes = [np.array([radius * np.sin(a), y, -radius * np.cos(a)]) for a in angles]
    return [looking(eye, np.zeros(3), name=f"view_{i:02}.jpg", **lens) for i, eye in enumerate(eyes)]


def rasterizer(gaussians, camera, *, sh_degree, background=None, antialiased=False, pose=None, with_depth=False):
    """Draw as a `Rasterizer` must, by the reference in float64."""
    exact = Gaussians(**{name: tensor.double() for name, tensor in gaussians.tensors().items()})
    options = {"sh_degree": sh_degree, "antialiased": antialiased, "with_depth": with_depth}
    behind = None if background is None else background.double()
    drawn: Rendered = reference.render(exact, camera, background=behind, pose=pose, **options)[0]
    return drawn
