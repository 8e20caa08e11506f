"""How far a drawn picture is from the one that was taken, on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.splatting.ssim import C1, C2, SIGMA, WINDOW, photometric_loss


def photo_loss(
    drawn: Tensor, taken: Tensor, mask: Tensor | None, ssim_lambda: float, *, num_threads: int = 1
) -> Tensor:
    """Return (1 - ssim_lambda) * L1 + ssim_lambda * (1 - SSIM), a scalar.

    Source: 3DGS (arXiv:2308.04079) eq. 7. A picture of which no pixel counts is no error at all.

    Args:
        drawn: (H, W, 3) float32, differentiable.
        taken: (H, W, 3) float32 in [0, 1].
        mask: (H, W) bool, True: counts; None: all. Other pixels leave L1, and are taken to be right in SSIM's windows.
        ssim_lambda: in [0, 1].
        num_threads: of the CPU; the result does not depend on it.
    """
    if mask is not None and not mask.any():
        return (drawn * 0).sum()
    if drawn.device.type == "cpu":
        return photometric_loss(drawn, taken, ssim_lambda, mask=mask, num_threads=num_threads)
    return tensor_loss(drawn, taken, mask, ssim_lambda)


def tensor_loss(drawn: Tensor, taken: Tensor, mask: Tensor | None, ssim_lambda: float) -> Tensor:
    """Return what `photo_loss` does, by torch's own operations."""
    n_counted: Tensor | int = drawn.numel()
    if mask is not None:
        n_counted = 3 * mask.sum()
        drawn = torch.where(mask[..., None], drawn, taken)
    loss = (1 - ssim_lambda) * (drawn - taken).abs().sum() / n_counted
    return loss + ssim_lambda * (1 - tensor_ssim(drawn, taken)) if ssim_lambda else loss


def tensor_ssim(drawn: Tensor, taken: Tensor) -> Tensor:
    """Return the mean structural similarity of two pictures (H, W, 3), where the whole window lies in the picture."""
    x, y = drawn.permute(2, 0, 1), taken.permute(2, 0, 1)  # (3, H, W)
    mx, my, xx, yy, xy = _smooth(torch.stack([x, y, x * x, y * y, x * y]))
    upper = (2 * mx * my + C1) * (2 * (xy - mx * my) + C2)
    lower = (mx * mx + my * my + C1) * (xx - mx * mx + yy - my * my + C2)
    return (upper / lower).mean()


def _smooth(maps: Tensor) -> Tensor:
    """Return (5, 3, H - 10, W - 10): maps (5, 3, H, W) under the window, first along one axis, then the other."""
    offsets = torch.arange(WINDOW, dtype=maps.dtype, device=maps.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()
    along = F.conv2d(maps.flatten(0, 1)[:, None], window.view(1, 1, 1, -1))
    return F.conv2d(along, window.view(1, 1, -1, 1))[:, 0].unflatten(0, maps.shape[:2])


def psnr(mean_squared_error: float) -> float:
    """Return decibels for values in [0, 1]; equal pictures count as 100 dB."""
    return -10 * math.log10(max(mean_squared_error, 1e-10))
