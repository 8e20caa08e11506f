"""Draws on a GPU in one node of autograd: gsplat's kernels, with ours before and after them.

gsplat's `rasterization` does the same in some fifty launches, most of them single operations of torch, and copies all
coefficients of colour on the way. Its compiled functions are called here as release 1.5.3 calls them itself.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.splatting.render.triton_colors import activated, by_fitted, colors_of

_TILE = 16  # pixels
_BLUR = 0.3  # px^2 added to the covariance in the image; gsplat's eps2d
_FAR = 1e10


@dataclass(slots=True)
class DrawCall:
    """What an image is drawn of, besides Gaussians.

    Args:
        lens: (1, 3, 3) intrinsics.
        width, height: pixels.
        near_plane: world units.
        sh_degree: in use.
        antialiased: whether opacities are scaled by the share that the blur takes.
        centers: gets the gradient by the centres in the image, (N, 2), as its `.grad`; made by drawing.
        radii: (N, 2) int32 pixels; made by drawing.
    """

    lens: Tensor
    width: int
    height: int
    near_plane: float
    sh_degree: int
    antialiased: bool
    centers: Tensor | None = None
    radii: Tensor | None = None


class Draw(torch.autograd.Function):
    """Means, scales, quats, opacities, sh0, shN, pose (4, 4), background (3,) or None -> image (H, W, 3), alphas."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        scales: Tensor,
        quats: Tensor,
        logits: Tensor,
        sh0: Tensor,
        shN: Tensor,
        pose: Tensor,
        background: Tensor | None,
        view: DrawCall,
        kernels: Any,
    ) -> tuple[Tensor, Tensor]:
        """Draw; `kernels` are gsplat's compiled functions."""
        ctx.set_materialize_grads(False)
        poses, background = pose[None], None if background is None else background[None]
        extents, opacities = activated(scales, logits)
        shape = (view.width, view.height)
        pinhole = kernels.CameraModelType.PINHOLE
        lens = (view.lens, *shape, _BLUR, view.near_plane, _FAR, 0.0, view.antialiased, pinhole)
        radii, means2d, depths, conics, shares = kernels.projection_ewa_3dgs_fused_fwd(
            means, None, quats, extents, opacities, poses, *lens
        )
        shares = shares if view.antialiased else None
        colors = colors_of(means, sh0, shN, radii, pose, view.sh_degree)
        seen = opacities[None] if shares is None else opacities * shares
        columns, rows = math.ceil(view.width / _TILE), math.ceil(view.height / _TILE)
        _, ids, order = kernels.intersect_tile(means2d, radii, depths, None, None, 1, _TILE, columns, rows, True, False)
        offsets = kernels.intersect_offset(ids, 1, columns, rows)
        drawing = (means2d, conics, colors[None], seen, background, None, *shape, _TILE, offsets, order)
        image, alphas, last = kernels.rasterize_to_pixels_3dgs_fwd(*drawing)
        view.centers, view.radii = means2d.detach()[0], radii[0]
        ctx.view, ctx.kernels = view, kernels
        ctx.save_for_backward(means, quats, shN, poses, background, radii, extents, opacities, colors)
        ctx.drawn = means2d, conics, shares, offsets, order, alphas, last
        return image[0], alphas[0, ..., 0]

    @staticmethod
    def backward(ctx: Any, by_image: Tensor | None, by_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients by all that is fitted, the pose and the background."""
        means, quats, shN, poses, background, radii, extents, opacities, colors = ctx.saved_tensors
        means2d, conics, shares, offsets, order, alphas, last = ctx.drawn
        view, kernels = ctx.view, ctx.kernels
        shape = (view.width, view.height)
        by_image = alphas.new_zeros(*alphas.shape[:3], 3) if by_image is None else by_image[None].contiguous()
        by_alphas = torch.zeros_like(alphas) if by_alphas is None else by_alphas[None, ..., None].contiguous()
        seen = opacities[None] if shares is None else opacities * shares
        drawing = (means2d, conics, colors[None], seen, background, None, *shape, _TILE, offsets, order)
        _, by_centers, by_conics, by_colors, by_seen = kernels.rasterize_to_pixels_3dgs_bwd(
            *drawing, alphas, last, by_image, by_alphas, False
        )
        by_shares = None if shares is None else by_seen * opacities
        by_opacities = by_seen if shares is None else by_seen * shares
        lens = (view.lens, *shape, _BLUR, kernels.CameraModelType.PINHOLE)
        by_means, _, by_quats, by_extents, by_poses = kernels.projection_ewa_3dgs_fused_bwd(
            means, None, quats, extents, poses, *lens, radii, conics, shares,
            *(by_centers, torch.zeros_like(by_seen), by_conics, by_shares, ctx.needs_input_grad[6]),
        )  # fmt: skip
        by_place = by_means.clone() if ctx.needs_input_grad[6] else None
        by_sh0, by_shN = by_fitted(
            (means, shN),
            (radii, extents, opacities, colors),
            (by_means, by_extents, by_opacities, by_colors),
            poses,
            view.sh_degree,
        )
        assert view.centers is not None, "drawing leaves them"
        view.centers.grad = by_centers[0]
        by_pose = None if by_place is None else by_poses[0] + _by_sight(poses[0], by_means - by_place)
        by_background = None
        if ctx.needs_input_grad[7]:
            by_background = (by_image * (1 - alphas)).sum((0, 1, 2))
        return (
            *(by_means, by_extents, by_quats, by_opacities[0], by_sh0, by_shN),
            *(by_pose, by_background, None, None),
        )


def _by_sight(pose: Tensor, by_directions: Tensor) -> Tensor:
    """Return the gradient (4, 4) by the pose of what colours see of the camera's place -R't.

    Args:
        pose: (4, 4) world to camera.
        by_directions: (N, 3) gradient by mean less place.
    """
    by_place = -by_directions.sum(0)  # (3,)
    gradient = torch.zeros_like(pose)
    gradient[:3, :3] = -torch.outer(pose[:3, 3], by_place)
    gradient[:3, 3] = -pose[:3, :3] @ by_place
    return gradient
