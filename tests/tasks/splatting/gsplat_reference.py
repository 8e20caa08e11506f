"""gsplat without a GPU: its own `rasterization`, with its own PyTorch versions of the kernels under it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gsplat import rendering
from gsplat.cuda import _torch_impl as reference
from torch import Tensor

from tasks.splatting.render.cuda_rasterizer import CudaRasterizer
from tasks.trial.splats.gsplat_torch import composited, in_order


def rasterizer_without_gpu(monkeypatch: pytest.MonkeyPatch) -> CudaRasterizer:
    """Return what draws on a GPU, drawing on the CPU; only small images of few Gaussians."""
    for name in ("projection", "harmonics", "order", "offsets", "pixels"):
        monkeypatch.setattr(rendering, _REPLACED[name], globals()[f"_{name}"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("tasks.splatting.render.cuda_rasterizer.load_gsplat", lambda kernels: rendering.rasterization)
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
    return None, None, in_order(radii, depths)


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
    found = means2d[0, order], conics[0, order], colors[0, order], opacities[0, order]
    picture, alphas = composited(*found, width, height)
    return picture[None], alphas[None, ..., None]


class Kernels:
    """gsplat's compiled functions, as far as our own node of autograd calls them, by the same PyTorch versions."""

    CameraModelType = SimpleNamespace(PINHOLE="pinhole")

    @staticmethod
    def projection_ewa_3dgs_fused_fwd(
        means: Tensor,
        covars: None,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        eps2d: float,
        near_plane: float,
        far_plane: float,
        radius_clip: float,
        calc_compensations: bool,
        camera_model: str,
    ) -> tuple[Tensor, ...]:
        full, _ = reference._quat_scale_to_covar_preci(quats, scales, compute_preci=False, triu=False)
        lens = (Ks, width, height, eps2d, near_plane, far_plane, calc_compensations, camera_model)
        found = reference._fully_fused_projection(means, full, viewmats, *lens)
        return (found[0].int(), *found[1:])

    @classmethod
    def projection_ewa_3dgs_fused_bwd(cls, *arguments: Any) -> tuple[Tensor | None, ...]:
        drawn, (radii, _, compensations, *by_outputs, _) = arguments[:10], arguments[10:]
        means, _, quats, scales, viewmats, *lens, camera_model = drawn
        given = [t.detach().requires_grad_() for t in (means, quats, scales, viewmats)]
        with torch.enable_grad():
            found = cls.projection_ewa_3dgs_fused_fwd(
                given[0], None, given[1], given[2], None, given[3],
                *(*lens, 0.01, 1e10, 0.0, compensations is not None, camera_model),
            )  # fmt: skip
            inside = (radii > 0).all(-1)  # (1, N)
            weighed = [
                (torch.where(inside if out.ndim == 2 else inside[..., None], out, 0) * by).sum()
                for out, by in zip(found[1:], by_outputs, strict=True)
                if by is not None
            ]
            by_means, by_quats, by_scales, by_views = torch.autograd.grad(sum(weighed), given)
        return by_means, None, by_quats, by_scales, by_views

    @staticmethod
    def intersect_tile(means2d: Tensor, radii: Tensor, depths: Tensor, *_: Any) -> tuple[None, None, Tensor]:
        return _order(means2d, radii, depths)

    @staticmethod
    def intersect_offset(_: None, n_images: int, columns: int, rows: int) -> Tensor:
        return _offsets(None, n_images, columns, rows)

    @staticmethod
    def rasterize_to_pixels_3dgs_fwd(
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        backgrounds: Tensor | None,
        masks: None,
        *size: Any,
    ) -> tuple[Tensor, Tensor, None]:
        unused = {"backgrounds": None, "packed": False, "absgrad": False}
        picture, alphas = _pixels(means2d, conics, colors, opacities, *size, **unused)
        if backgrounds is not None:
            picture = picture + (1 - alphas) * backgrounds[0]
        return picture, alphas, None

    @classmethod
    def rasterize_to_pixels_3dgs_bwd(cls, *arguments: Any) -> tuple[Tensor | None, ...]:
        drawn, (_, _, by_image, by_alphas, _) = arguments[:11], arguments[11:]
        given = [tensor.detach().requires_grad_() for tensor in drawn[:4]]
        with torch.enable_grad():
            picture, alphas, _ = cls.rasterize_to_pixels_3dgs_fwd(*given, *drawn[4:])
            weighed = (picture * by_image).sum() + (alphas * by_alphas).sum()
            return None, *torch.autograd.grad(weighed, given)
