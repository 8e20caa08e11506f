"""L1 and SSIM of two images on the CPU in one pass, with gradient.

SSIM with a Gaussian window of 11x11 pixels, sigma 1.5, only where the whole window lies in the image ("valid"
padding, as upstream gsplat trains; 3DGS pads with zeros, which makes borders count as dark).
Variances are differences of large numbers beside 9e-4, so images are taken less the mean of each of their
channels: of a flat image nothing is left that could cancel.
Source: Wang et al. 2004, "Image quality assessment"; loss of 3DGS (arXiv:2308.04079) eq. 7.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.geometry.jit import kernel, run, summing

Floats = NDArray[np.float32]
WINDOW = 11
EDGE = WINDOW - 1
SIGMA = 1.5
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)
_BELL = [math.exp(-((i - EDGE / 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
W0, W1, W2, W3, W4, W5 = (np.float32(weight / sum(_BELL)) for weight in _BELL[: WINDOW // 2 + 1])
ONE, TWO = np.float32(1), np.float32(2)


@cache
def window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the weights of the window along one axis, (11,), put on the device once."""
    return torch.tensor([weight / sum(_BELL) for weight in _BELL], dtype=dtype).to(device)


@kernel
def _smooth(source: Floats, at: np.uint64, step: np.uint64, out: Floats, to: np.uint64, n: np.uint64) -> None:
    """Write n windowed sums of 11 values, `step` apart, of which the first begins at source[at]."""
    s2, s3, s4, s5 = step + step, np.uint64(3) * step, np.uint64(4) * step, np.uint64(5) * step
    s6, s7, s8, s9, s10 = s3 + s3, s3 + s4, s4 + s4, s4 + s5, s5 + s5
    for i in range(n):
        j = at + i
        total = W5 * source[j + s5] + W4 * (source[j + s4] + source[j + s6])
        total += W3 * (source[j + s3] + source[j + s7]) + W2 * (source[j + s2] + source[j + s8])
        out[to + i] = total + W1 * (source[j + step] + source[j + s9]) + W0 * (source[j] + source[j + s10])


@kernel
def _across(first: int, step: int, image: Floats, target: Floats, center: Floats, maps: Floats) -> None:
    """Smooth x, y, x^2 + y^2 and x y along each row: maps (4, H, M) from images (H, 3 W), less center (2, 3 W)."""
    height, width = image.shape
    row = np.empty(4 * width, np.float32)
    flat, n, size = maps.reshape(-1), np.uint64(maps.shape[2]), np.uint64(width)
    for y in range(first, height, step):
        for i in range(size):
            a, b = image[y, i] - center[0, i], target[y, i] - center[1, i]
            row[i], row[size + i] = a, b
            row[size + size + i], row[size + size + size + i] = a * a + b * b, a * b
        for part in range(4):
            to = np.uint64((part * height + y) * maps.shape[2])
            _smooth(row, np.uint64(part) * size, np.uint64(3), flat, to, n)


@kernel
def _compare(row: Floats, center: Floats, slopes: Floats, y: int, values: Floats) -> None:
    """Write the SSIM of one row from its four smooth parts, row (4, M), and what it changes by, slopes (3, H, M)."""
    for i in range(np.uint64(len(values))):
        x_off, y_off = row[0, i], row[1, i]
        x_mean, y_mean = x_off + center[0, i], y_off + center[1, i]
        a1, a2 = TWO * x_mean * y_mean + C1, TWO * (row[3, i] - x_off * y_off) + C2
        b1, b2 = x_mean * x_mean + y_mean * y_mean + C1, row[2, i] - (x_off * x_off + y_off * y_off) + C2
        inverse = ONE / (b1 * b2)
        value = a1 * a2 * inverse
        values[i] = value
        slopes[0, y, i] = TWO * inverse * (y_mean * a2 - y_off * a1 - value * (x_mean * b2 - x_off * b1))
        slopes[1, y, i] = -value * b1 * inverse
        slopes[2, y, i] = TWO * a1 * inverse


@summing
def _sum(values: Floats) -> float:
    """Return the sum."""
    total = np.float32(0)
    for i in range(np.uint64(len(values))):
        total += values[i]
    return float(total)


@kernel
def _down(first: int, step: int, maps: Floats, center: Floats, slopes: Floats, sums: NDArray[np.float64]) -> None:
    """Finish the smoothing, and compare: sums (H,) of SSIM per row, slopes (3, H + 20, M) within ten rows of zeros."""
    n = maps.shape[2]
    row, values = np.empty((4, n), np.float32), np.empty(n, np.float32)
    flat, flat_row = maps.reshape(-1), row.reshape(-1)
    for y in range(first, maps.shape[1] - EDGE, step):
        for part in range(4):
            at = np.uint64((part * maps.shape[1] + y) * n)
            _smooth(flat, at, np.uint64(n), flat_row, np.uint64(part * n), np.uint64(n))
        _compare(row, center, slopes, y + EDGE, values)
        sums[y] = _sum(values)


@kernel
def _back(
    first: int,
    step: int,
    image: Floats,
    target: Floats,
    center: Floats,
    slopes: Floats,
    l1: np.float32,
    ssim: np.float32,
    out: Floats,
) -> None:
    """Write the gradient (H, 3 W) of l1 * |x - y| - ssim * SSIM, each summed over all."""
    height, width = image.shape
    n = slopes.shape[2]
    wide = n + 6 * EDGE
    down, back = np.zeros(3 * wide, np.float32), np.empty((3, width), np.float32)
    flat, flat_back = slopes.reshape(-1), back.reshape(-1)
    for y in range(first, height, step):
        for part in range(3):
            at = np.uint64((part * slopes.shape[1] + y) * n)
            _smooth(flat, at, np.uint64(n), down, np.uint64(part * wide + 3 * EDGE), np.uint64(n))
            _smooth(down, np.uint64(part * wide), np.uint64(3), flat_back, np.uint64(part * width), np.uint64(width))
        for i in range(np.uint64(width)):
            a, b = image[y, i], target[y, i]
            sign = l1 if a > b else (-l1 if a < b else np.float32(0))
            a, b = a - center[0, i], b - center[1, i]
            out[y, i] = sign - ssim * (back[0, i] + TWO * a * back[1, i] + b * back[2, i])


@summing
def _distances(first: int, step: int, image: Floats, target: Floats, sums: NDArray[np.float64]) -> None:
    """Write the sums (H,) of |x - y| per row."""
    for y in range(first, len(image), step):
        total = np.float32(0)
        for i in range(np.uint64(image.shape[1])):
            total += abs(image[y, i] - target[y, i])
        sums[y] = total


def _rows(image: Tensor, name: str) -> Floats:
    """Return an image (H, W, 3) as rows (H, 3 W)."""
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < WINDOW:
        raise ValueError(f"{name} has shape {tuple(image.shape)}; need (H, W, 3) with H and W of at least {WINDOW}")
    if image.dtype != torch.float32 or image.device.type != "cpu":
        raise ValueError(f"{name} is {image.dtype} on {image.device}; need torch.float32 on the CPU")
    return image.detach().contiguous().numpy().reshape(image.shape[0], -1)


def _center(image: Floats, target: Floats) -> Floats:
    """Return the means of the channels of both images (H, 3 W), once for every pixel of a row, (2, 3 W)."""
    means = [each.mean(0).reshape(-1, 3).mean(0) for each in (image, target)]
    return np.tile(np.stack(means), image.shape[1] // 3)


def _ssim(image: Floats, target: Floats, center: Floats, n_threads: int) -> tuple[float, Floats]:
    """Return the mean SSIM, and what its sum changes by (3, H + 10, M)."""
    height, n = len(image), image.shape[1] - 3 * EDGE
    maps, slopes = np.empty((4, height, n), np.float32), np.zeros((3, height + EDGE, n), np.float32)
    sums = np.zeros(height - EDGE)
    run(_across, n_threads, (image, target, center, maps))
    run(_down, n_threads, (maps, center, slopes, sums))
    return float(sums.sum()) / (len(sums) * n), slopes


class _Photometric(torch.autograd.Function):
    """Images (H, 3 W) -> (1 - ssim_lambda) * L1 + ssim_lambda * (1 - SSIM)."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, ssim_lambda: float, counted: int, n_threads: int) -> Tensor:
        """Compute value and gradient."""
        x, y = _rows(image, "image"), _rows(target, "target")
        sums, center = np.zeros(len(x)), _center(x, y)
        run(_distances, n_threads, (x, y, sums))
        value, slopes = _ssim(x, y, center, n_threads)
        if ctx.needs_input_grad[0]:
            gradient = torch.empty(image.shape)
            n_windows = (slopes.shape[1] - 2 * EDGE) * slopes.shape[2]
            weights = np.float32((1 - ssim_lambda) / counted), np.float32(ssim_lambda / n_windows)
            run(_back, n_threads, (x, y, center, slopes, *weights, gradient.numpy().reshape(x.shape)))
            ctx.save_for_backward(gradient)
        return torch.tensor((1 - ssim_lambda) * sums.sum() / counted + ssim_lambda * (1 - value), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the image."""
        return ctx.saved_tensors[0] * by_loss, None, None, None, None


def cpu_photometric_loss(
    image: Tensor, target: Tensor, ssim_lambda: float, *, mask: Tensor | None = None, num_threads: int = 1
) -> Tensor:
    """Return (1 - ssim_lambda) * L1 + ssim_lambda * (1 - SSIM), a scalar, differentiable by image.

    Args:
        image, target: (H, W, 3) float32; only values in [0, 1] fit SSIM's constants.
        ssim_lambda: in [0, 1]; 3DGS takes 0.2.
        mask: (H, W) bool, False: not counted. Such pixels leave L1 and are taken to be right in SSIM's windows.
        num_threads: to compute with; the result is the same, bit for bit.

    Raises:
        ValueError: shapes or types differ from these, or no pixel is counted.
    """
    if image.shape != target.shape:
        raise ValueError(f"image is {tuple(image.shape)}, target is {tuple(target.shape)}; need the same shape")
    counted = image.numel()
    if mask is not None:
        counted = 3 * int(mask.sum())
        if not counted:
            raise ValueError(f"the mask {tuple(mask.shape)} counts no pixel; need at least one")
        image = torch.where(mask[..., None], image, target)
    return _Photometric.apply(image, target, ssim_lambda, counted, num_threads)


def ssim(image: Tensor, target: Tensor, *, num_threads: int = 1) -> float:
    """Return the mean SSIM of two images (H, W, 3) float32 in [0, 1], 1 for equal ones.

    Raises:
        ValueError: shapes or types differ from these, or a side is shorter than the window of 11 pixels.
    """
    if image.shape != target.shape:
        raise ValueError(f"image is {tuple(image.shape)}, target is {tuple(target.shape)}; need the same shape")
    x, y = _rows(image, "image"), _rows(target, "target")
    return _ssim(x, y, _center(x, y), num_threads)[0]
