"""The loss between a drawn and a taken image, on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.splatting.loss.cpu_loss import C1, C2, WINDOW, cpu_photometric_loss, window
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.triton_parts import triton_part

_C1, _C2 = float(C1), float(C2)


def photo_loss(
    drawn: Tensor,
    taken: Tensor,
    mask: Tensor | None,
    ssim_lambda: float,
    *,
    n_counted: int | None = None,
    num_threads: int = 1,
) -> Tensor:
    """Return (1 - ssim_lambda) * L1 + ssim_lambda * (1 - SSIM), a scalar.

    Computed by `triton_loss` on a GPU, by `tensor_loss` on one without Triton, and by `cpu_loss` on a CPU.
    Source: 3DGS (arXiv:2308.04079) eq. 7. An image of which no pixel counts is no error at all.

    Args:
        drawn: (H, W, 3) float32, differentiable.
        taken: (H, W, 3) float32 in [0, 1], or uint8.
        mask: (H, W) bool, True: counts; None: all. Other pixels leave L1, and are taken to be right in SSIM's windows.
        ssim_lambda: in [0, 1].
        n_counted: pixels that count; None: looked for, which waits for a GPU.
        num_threads: of the CPU; the result does not depend on it.
    """
    if n_counted is None:
        n_counted = int(mask.sum()) if mask is not None else drawn.shape[0] * drawn.shape[1]
    if not n_counted:
        return (drawn * 0).sum()
    if fused := triton_part("loss.triton_loss", drawn.device):
        found: Tensor = fused.triton_photometric_loss(drawn, taken, mask, ssim_lambda, n_counted=n_counted)
        return found
    if drawn.device.type == "cpu":
        return cpu_photometric_loss(drawn, as_float(taken), ssim_lambda, mask=mask, num_threads=num_threads)
    return tensor_loss(drawn, as_float(taken), mask, ssim_lambda, n_counted)


def as_float(taken: Tensor) -> Tensor:
    """Return an image of bytes as float32 in [0, 1]; one of floats as it is."""
    return taken.float() / 255 if taken.dtype == torch.uint8 else taken


def tensor_loss(drawn: Tensor, taken: Tensor, mask: Tensor | None, ssim_lambda: float, n_counted: int) -> Tensor:
    """Return what `photo_loss` does, by torch's own operations: the way of a GPU without Triton."""
    if mask is not None:
        drawn = torch.where(mask[..., None], drawn, taken)
    loss = (1 - ssim_lambda) * (drawn - taken).abs().sum() / (3 * n_counted)
    return loss + ssim_lambda * (1 - tensor_ssim(drawn, taken)) if ssim_lambda else loss


def tensor_ssim(drawn: Tensor, taken: Tensor) -> Tensor:
    """Return the mean structural similarity of two images (H, W, 3), where the whole window lies in the image.

    In float64: variances are differences of large numbers beside 9e-4, and neither TF32 nor float32 leaves them enough
    digits in flat regions.
    """
    x, y = drawn.double().permute(2, 0, 1), taken.double().permute(2, 0, 1)  # (3, H, W)
    mx, my, xx, yy, xy = _smooth(torch.stack([x, y, x * x, y * y, x * y]))
    upper = (2 * mx * my + _C1) * (2 * (xy - mx * my) + _C2)
    lower = (mx * mx + my * my + _C1) * (xx - mx * mx + yy - my * my + _C2)
    return (upper / lower).mean().float()


def _smooth(maps: Tensor) -> Tensor:
    """Return (5, 3, H - 10, W - 10): maps (5, 3, H, W) under the window, first along one axis, then the other.

    As a depthwise convolution of 15 channels: a batch of 15 images of one channel takes cuDNN thirty times as long.
    """
    channels = maps.flatten(0, 1)[None]  # (1, 15, H, W)
    n = channels.shape[1]
    weights = window(maps.device, maps.dtype).expand(n, 1, WINDOW)
    along = F.conv2d(channels, weights[:, :, None, :], groups=n)
    return F.conv2d(along, weights[:, :, :, None], groups=n)[0].unflatten(0, maps.shape[:2])


def penalty(gaussians: Gaussians, opacity_reg: float, scale_reg: float) -> Tensor:
    """Return opacity_reg * mean opacity + scale_reg * mean extent, a scalar: what keeps MCMC's Gaussians small.

    Source: 3DGS-MCMC (arXiv:2404.09591) eq. 10.
    """
    if fused := triton_part("fit.triton_steps", gaussians.means.device):
        found: Tensor = fused.Penalty.apply(gaussians.scales, gaussians.opacities, opacity_reg, scale_reg)
        return found
    opacity = opacity_reg * torch.sigmoid(gaussians.opacities).mean() if opacity_reg else 0.0
    extent = scale_reg * torch.exp(gaussians.scales).mean() if scale_reg else 0.0
    return torch.as_tensor(opacity + extent)


def psnr(mean_squared_error: float) -> float:
    """Return decibels for values in [0, 1]; equal images count as 100 dB."""
    return -10 * math.log10(max(mean_squared_error, 1e-10))
