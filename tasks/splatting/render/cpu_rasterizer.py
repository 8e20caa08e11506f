"""Draws Gaussians on a CPU with numba kernels and analytic gradients."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.base.errors import TrainingError
from tasks.geometry.jit import run
from tasks.splatting.render import (
    binning_kernels,
    projection_gradients,
    projection_kernels,
    tile_gradients,
    tile_kernels,
)
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import DrawOptions, Rasterizer, Rendered

Floats = NDArray[np.float32]
FIELD_SPARE = 0.15  # of the image's size, on each side; slopes in the Jacobian stay within. Source: 3DGS


@dataclass(frozen=True, slots=True)
class _ImageSetup:
    """What is the same for all Gaussians of one image."""

    view: NDArray[np.float64]  # (26,), see projection_kernels
    width: int
    height: int
    sh_degree: int
    antialiased: bool
    n_threads: int


def _view(camera: Camera, pose: NDArray[np.float64], near_plane: float) -> NDArray[np.float64]:
    """Return what the projection kernels know of the camera, (26,)."""
    rotation, translation = pose[:3, :3], pose[:3, 3]
    low_x, high_x = -camera.cx, camera.width - camera.cx
    low_y, high_y = -camera.cy, camera.height - camera.cy
    spare_x, spare_y = FIELD_SPARE * camera.width, FIELD_SPARE * camera.height
    scalars = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, near_plane]
    bounds = [(low_x - spare_x) / camera.fx, (high_x + spare_x) / camera.fx]
    bounds += [(low_y - spare_y) / camera.fy, (high_y + spare_y) / camera.fy]
    return np.concatenate([rotation.ravel(), translation, -rotation.T @ translation, scalars, bounds])


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _check_finite(radii: Tensor, tensors: tuple[Tensor, ...], camera: Camera) -> None:
    """Raise TrainingError that names the first Gaussian that cannot be drawn, and why."""
    bad = (radii < 0).nonzero()
    if not len(bad):
        return
    i, names = int(bad[0]), ("means", "scales", "quats", "opacities", "sh0", "shN")
    broken = [name for name, tensor in zip(names, tensors, strict=True) if not tensor[i].isfinite().all()]
    values = {name: tensor[i].flatten()[:4].tolist() for name, tensor in zip(names[:4], tensors[:4], strict=True)}
    what = f"{', '.join(broken)} not finite" if broken else "too large, or a quaternion of length 0"
    raise TrainingError(
        f"{len(bad)} of {len(radii)} Gaussians cannot be drawn for {camera.name}; number {i} has {what}: {values}; "
        "need finite values, so lower the learning rates or look at the image before"
    )


class _Project(torch.autograd.Function):
    """Six tensors and a pose -> centres (N, 2), splats (N, 12), radii (N,)."""

    @staticmethod
    def forward(ctx: Any, shot: _ImageSetup, pose: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project every Gaussian."""
        splats = torch.zeros(len(tensors[0]), projection_kernels.N_COLUMNS)
        radii = torch.zeros(len(tensors[0]))
        arrays = tuple(_array(tensor) for tensor in tensors)
        settings = (arrays, shot.view, shot.sh_degree, shot.antialiased)
        run(projection_kernels.project, shot.n_threads, (*settings, splats.numpy(), radii.numpy()))
        centers = splats[:, :2].contiguous()
        ctx.save_for_backward(splats, radii, pose, *tensors)
        ctx.shot = shot
        ctx.mark_non_differentiable(radii)
        return centers, splats, radii

    @staticmethod
    def backward(ctx: Any, by_centers: Tensor, by_splats: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by pose and tensors."""
        shot, (splats, radii, pose, *tensors) = ctx.shot, ctx.saved_tensors
        out = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
        n_blocks = -(-len(radii) // projection_kernels.BLOCK)
        by_pose = np.zeros((n_blocks, 12))
        arrays = tuple(_array(tensor) for tensor in tensors)
        settings = (arrays, shot.view, shot.sh_degree, shot.antialiased)
        gradients = (_array(by_centers), _array(by_splats), tuple(_array(tensor) for tensor in out), by_pose)
        run(projection_gradients.project_back, shot.n_threads, (*settings, _array(splats), _array(radii), *gradients))
        whole = np.zeros((4, 4))
        total = by_pose.sum(0)
        whole[:3, :3], whole[:3, 3] = total[:9].reshape(3, 3), total[9:]
        return None, torch.as_tensor(whole, dtype=pose.dtype), *out


class _Draw(torch.autograd.Function):
    """Centres, splats and a background -> colors (H, W, 3), alphas (H, W) and depths (H, W)."""

    @staticmethod
    def forward(
        ctx: Any,
        shot: _ImageSetup,
        with_depth: bool,
        centers: Tensor,
        splats: Tensor,
        radii: Tensor,
        background: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Blend the splats of every tile."""
        table = _array(splats)
        order = binning_kernels.by_depth(table, _array(radii))
        columns, rows = -(-shot.width // tile_kernels.TILE), -(-shot.height // tile_kernels.TILE)
        tile_starts, numbers, places, starts = binning_kernels.bin_splats(table, order, columns, rows)
        colors, through = torch.empty(shot.height, shot.width, 3), torch.empty(shot.height, shot.width)
        tiles = (tile_starts, numbers, table)
        run(tile_kernels.draw, shot.n_threads, (*tiles, _array(background), colors.numpy(), through.numpy()))
        depths = torch.empty(shot.height if with_depth else 0, shot.width)
        if with_depth:
            run(tile_kernels.draw_depths, shot.n_threads, (*tiles, through.numpy(), depths.numpy()))
        ctx.save_for_backward(splats, colors, through)
        ctx.shot, ctx.bins = shot, (tile_starts, numbers, places, order, starts)
        ctx.mark_non_differentiable(depths)
        return colors, 1 - through, depths

    @staticmethod
    def backward(ctx: Any, by_colors: Tensor, by_alphas: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by centres, splats and background."""
        shot, (splats, colors, through) = ctx.shot, ctx.saved_tensors
        tile_starts, numbers, places, order, starts = ctx.bins
        entries = np.zeros((len(numbers), 9), np.float32)
        image = tuple(_array(tensor) for tensor in (colors, through, by_colors, by_alphas))
        table = _array(splats)
        run(tile_gradients.draw_back, shot.n_threads, (tile_starts, numbers, places, table, image, entries))
        by_centers, by_splats = torch.zeros(len(splats), 2), torch.zeros_like(splats)
        sums = (by_centers.numpy(), by_splats.numpy())
        run(tile_gradients.reduce_entries, shot.n_threads, (order, starts, entries, *sums))
        by_background = (through[..., None] * by_colors).sum((0, 1)) if ctx.needs_input_grad[5] else None
        return None, None, by_centers, by_splats, None, by_background


class CpuRasterizer(Rasterizer):
    """A `Rasterizer` on the CPU; same input, same bits, on any number of threads."""

    def __init__(self, *, num_threads: int | None = None, near_plane: float = 0.01) -> None:
        """Remember the settings.

        Args:
            num_threads: threads to draw with; None: one per core this process may use.
            near_plane: Gaussians whose centre is nearer are not drawn, world units.
        """
        if near_plane <= 0 or (num_threads is not None and num_threads < 1):
            raise ValueError(f"near_plane is {near_plane}, num_threads is {num_threads}; need both above 0")
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self.near_plane = near_plane

    def draw(self, gaussians: Gaussians, camera: Camera, options: DrawOptions) -> Rendered:
        """Draw one image.

        Raises:
            TrainingError: a Gaussian has values that are not finite.
            ValueError: a tensor is not float32 on the CPU, or sh_degree is above the Gaussians' own.
        """
        tensors = tuple(gaussians.tensors().values())
        for name, tensor in gaussians.tensors().items():
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}; need torch.float32 on the CPU")
        if not 0 <= options.sh_degree <= gaussians.sh_degree:
            raise ValueError(f"sh_degree is {options.sh_degree}; need 0 to {gaussians.sh_degree}, as far as shN goes")
        pose = torch.as_tensor(camera.world_to_camera) if options.pose is None else options.pose
        view = _view(camera, pose.detach().numpy().astype(np.float64), self.near_plane)
        size = camera.width, camera.height
        setup = _ImageSetup(view, *size, options.sh_degree, options.antialiased, self.num_threads)
        background = torch.zeros(3) if options.background is None else options.background
        centers, splats, radii = _Project.apply(setup, pose, *tensors)
        _check_finite(radii, tensors, camera)
        if centers.requires_grad:
            centers.retain_grad()
        colors, alphas, depths = _Draw.apply(setup, options.with_depth, centers, splats, radii, background)
        return Rendered(colors, alphas, depths if options.with_depth else None, centers, radii)
