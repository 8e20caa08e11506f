"""A scene of known Gaussians, with images from cameras on an arc."""

from pathlib import Path

import cv2
import numpy as np
import torch

from tasks.geometry.harmonics import C0
from tasks.splatting.fit.scene import Scene, View
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.gaussians import Gaussians

N_TRUE = 300


def true_gaussians(n: int = N_TRUE, seed: int = 0) -> Gaussians:
    """Return Gaussians over a cube of side 2 around the origin, opaque, of many colours; the more, the smaller."""
    rng = np.random.default_rng(seed)
    size = (N_TRUE / n) ** (1 / 3)
    return Gaussians(
        means=torch.from_numpy(rng.uniform(-1, 1, (n, 3)).astype(np.float32)),
        scales=torch.from_numpy(np.log(size * rng.uniform(0.05, 0.2, (n, 3))).astype(np.float32)),
        quats=torch.from_numpy(rng.standard_normal((n, 4)).astype(np.float32)),
        opacities=torch.full((n,), 2.0),
        sh0=torch.from_numpy(((rng.uniform(0, 1, (n, 1, 3)) - 0.5) / C0).astype(np.float32)),
        shN=torch.zeros(n, 0, 3),
    )


def arc(n: int, width: int = 64, height: int = 48) -> list[Camera]:
    """Return cameras on an arc, four away from the origin, looking at it."""
    cameras = []
    for index in range(n):
        angle, lift = 1.2 * (index / max(1, n - 1) - 0.5), 0.5 * np.sin(3.0 * index)
        eye = np.array([4 * np.sin(angle), lift, -4 * np.cos(angle)])
        forward = -eye / np.linalg.norm(eye)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        matrix[:3, 3] = -matrix[:3, :3] @ eye
        focal = 1.6 * width
        cameras.append(Camera(f"{index:03d}.png", width, height, focal, focal, width / 2, height / 2, matrix))
    return cameras


def make_scene(
    folder: Path,
    n_views: int = 12,
    *,
    size: tuple[int, int] = (64, 48),
    gains: np.ndarray | None = None,
    n_true: int = N_TRUE,
    num_threads: int = 1,
) -> Scene:
    """Write the images into `folder` and return the scene, with points that are a little off.

    Args:
        folder: made when missing.
        n_views: how many.
        size: width, height.
        gains: (n_views,) factor on each image's colours; None: 1.
        n_true: Gaussians that are drawn.
        num_threads: that draw.
    """
    true = true_gaussians(n_true)
    draw = CpuRasterizer(num_threads=num_threads)
    views = []
    folder.mkdir(parents=True, exist_ok=True)
    for index, camera in enumerate(arc(n_views, *size)):
        with torch.no_grad():
            colors = draw(true, camera, sh_degree=0).colors.numpy()
        if gains is not None:
            colors = colors * gains[index]
        pixels = np.clip(np.round(colors * 255), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / camera.name), pixels[..., ::-1])
        views.append(View(camera, folder / camera.name, None))
    rng = np.random.default_rng(1)
    off = 0.03 * (N_TRUE / n_true) ** (1 / 3)  # as their sizes
    points = true.means.numpy() + rng.normal(0, off, (n_true, 3)).astype(np.float32)
    colors = np.clip((true.sh0[:, 0].numpy() * C0 + 0.5) * 255 + rng.normal(0, 20, (n_true, 3)), 0, 255)
    return Scene(tuple(views), points.astype(np.float32), colors.astype(np.uint8))
