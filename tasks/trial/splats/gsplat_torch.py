"""gsplat's PyTorch versions of its kernels, which draw small images without a GPU.

Of the kernels only those that cut the image into tiles have no such version; here every pixel looks at every
Gaussian instead, with the limits of gsplat's kernels: alpha within [1/255, 0.999], an end at a transmittance of 1e-4.
"""

from importlib import import_module

import torch
from torch import Tensor

from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians

_BLUR, _NEAR, _FAR = 0.3, 0.01, 1e10


def draw(gaussians: Gaussians, camera: Camera, sh_degree: int) -> Tensor:
    """Return an image (H, W, 3) on black, differentiable.

    Args:
        gaussians: on the CPU.
        camera: whose image it is.
        sh_degree: 0 to 3.

    Raises:
        ImportError: gsplat is not installed.
    """
    reference, g = import_module("gsplat.cuda._torch_impl"), gaussians
    pose = torch.as_tensor(camera.world_to_camera, dtype=torch.float32)
    lens = torch.tensor([[[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]])
    covariances, _ = reference._quat_scale_to_covar_preci(g.quats, g.scales.exp(), compute_preci=False, triu=False)
    view = (pose[None], lens, camera.width, camera.height, _BLUR, _NEAR, _FAR, False, "pinhole")
    radii, centers, depths, conics, _ = reference._fully_fused_projection(g.means, covariances, *view)
    eye = -pose[:3, :3].T @ pose[:3, 3]
    harmonics = torch.cat([g.sh0, g.shN], 1)
    colors = (reference._spherical_harmonics(sh_degree, g.means - eye, harmonics) + 0.5).clamp_min(0)
    order = in_order(radii, depths)
    drawn = centers[0, order], conics[0, order], colors[order], torch.sigmoid(g.opacities)[order]
    return composited(*drawn, camera.width, camera.height)[0]


def in_order(radii: Tensor, depths: Tensor) -> Tensor:
    """Return the Gaussians of an image (1, N) that are in it, the nearest first, (M,) int64."""
    order = torch.argsort(depths[0], stable=True)
    return order[(radii[0, order] > 0).all(-1)]


def composited(
    centers: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Return image (H, W, 3) and alphas (H, W) of Gaussians on an image, the nearest first.

    Args:
        centers: (M, 2) pixels.
        conics: (M, 3) inverse covariance: xx, xy, yy.
        colors: (M, 3).
        opacities: (M,) in [0, 1].
        width, height: pixels.
    """
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = columns[..., None] - centers[:, 0], rows[..., None] - centers[:, 1]
    sigma = 0.5 * (conics[:, 0] * dx**2 + conics[:, 2] * dy**2) + conics[:, 1] * dx * dy
    alpha = (opacities * torch.exp(-sigma)).clamp_max(0.999)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    after = torch.cumprod(1 - alpha, -1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], -1)
    weights = torch.where(after > 1e-4, alpha * before, 0.0)
    return weights @ colors, weights.sum(-1)
