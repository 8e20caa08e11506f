"""gsplat without a GPU: its own `rasterization`, with its own PyTorch versions of the kernels under it.

Of the kernels only those that cut the picture into tiles have no such version; here every pixel looks at every
Gaussian instead, with the limits of gsplat's kernels: alpha within [1/255, 0.999], an end at a transmittance of 1e-4.
"""

from typing import Any

import pytest
import torch
from gsplat import rendering
from gsplat.cuda import _torch_impl as reference
from torch import Tensor

from tasks.splatting.cuda_rasterizer import CudaRasterizer


def rasterizer_without_gpu(monkeypatch: pytest.MonkeyPatch) -> CudaRasterizer:
    """Return what draws on a GPU, drawing on the CPU; only small pictures of few Gaussians."""
    for name in ("projection", "harmonics", "order", "offsets", "pixels"):
        monkeypatch.setattr(rendering, _REPLACED[name], globals()[f"_{name}"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("tasks.splatting.cuda_rasterizer.load_gsplat", lambda kernels: rendering.rasterization)
    return CudaRasterizer()


_REPLACED = {
    "projection": "fully_fused_projection",
    "harmonics": "spherical_harmonics",
    "order": "isect_tiles",
    "offsets": "isect_offset_encode",
    "pixels": "rasterize_to_pixels",
}


def _projection(
    means: Tensor,
    covars: None,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    eps2d: float,
    packed: bool,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    sparse_grad: bool,
    calc_compensations: bool,
    camera_model: Any,
    opacities: Tensor,
) -> tuple[Tensor | None, ...]:
    assert (covars, packed, radius_clip, sparse_grad) == (None, False, 0.0, False), "the reference knows no others"
    full, _ = reference._quat_scale_to_covar_preci(quats, scales, compute_preci=False, triu=False)
    lens = (Ks, width, height, eps2d, near_plane, far_plane, calc_compensations, camera_model)
    return reference._fully_fused_projection(means, full, viewmats, *lens)


def _harmonics(degree: int, directions: Tensor, coefficients: Tensor, *, masks: Tensor) -> Tensor:
    return reference._spherical_harmonics(degree, directions, coefficients) * masks[..., None]


def _order(means2d: Tensor, radii: Tensor, depths: Tensor, *_: Any, **__: Any) -> tuple[None, None, Tensor]:
    order = torch.argsort(depths[0], stable=True)
    return None, None, order[(radii[0, order] > 0).all(-1)]


def _offsets(_: None, n_images: int, columns: int, rows: int) -> Tensor:
    return torch.zeros(n_images * columns * rows, dtype=torch.int32)


def _pixels(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    offsets: Tensor,
    order: Tensor,
    *,
    backgrounds: None,
    packed: bool,
    absgrad: bool,
) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    center, conic, opacity, color = means2d[0, order], conics[0, order], opacities[0, order], colors[0, order]
    dx, dy = columns[..., None] - center[:, 0], rows[..., None] - center[:, 1]
    sigma = 0.5 * (conic[:, 0] * dx**2 + conic[:, 2] * dy**2) + conic[:, 1] * dx * dy
    alpha = (opacity * torch.exp(-sigma)).clamp_max(0.999)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    after = torch.cumprod(1 - alpha, -1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], -1)
    weights = torch.where(after > 1e-4, alpha * before, 0.0)
    return (weights @ color)[None], weights.sum(-1)[None, ..., None]
