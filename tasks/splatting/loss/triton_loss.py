"""L1 and SSIM of two images on a GPU, value and gradient in three launches.

The formula is that of `tasks.splatting.loss.cpu_loss`. SSIM takes differences of large numbers (E[x^2] - E[x]^2 beside
9e-4), so every window is summed relative to its own middle pixel: what would cancel is never added. Nothing here may
use TF32.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tasks.splatting.loss.cpu_loss import C1, C2, EDGE, WINDOW, window
from tasks.splatting.render.triton_parts import LAUNCH

_BLOCK = 256
_C1, _C2 = float(C1), float(C2)


@triton.jit
def _pixel(drawn, taken, mask, at, keep, IS_BYTES: tl.constexpr, IS_MASKED: tl.constexpr):
    """Return what was drawn and taken at flat places (H, W, 3); what does not count is taken to be right."""
    y = tl.load(taken + at, mask=keep, other=0).to(tl.float32)
    if IS_BYTES:
        y = y * (1.0 / 255.0)
    x = tl.load(drawn + at, mask=keep, other=0.0)
    if IS_MASKED:
        x = tl.where(tl.load(mask + at // 3, mask=keep, other=0) != 0, x, y)
    return x, y


@triton.jit(do_not_specialize=["height", "width"])
def _compare(
    drawn,
    taken,
    mask,
    weights,
    slopes,
    sums,
    height,
    width,
    C1: tl.constexpr,
    C2: tl.constexpr,
    IS_BYTES: tl.constexpr,
    IS_MASKED: tl.constexpr,
    WITH_SLOPES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the sum of SSIM over a block of windows, and what the values of each change it by.

    slopes (3, H - 10, 3 (W - 10)): by the window's mean of x, of x^2 and of x y, all relative to the middle pixel.
    """
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = 3 * (width - 10)
    size = (height - 10) * n
    keep = lane < size
    corner = lane // n * (3 * width) + lane % n
    middle = corner + 15 * width + 15
    x0, y0 = _pixel(drawn, taken, mask, middle, keep, IS_BYTES, IS_MASKED)
    ax = tl.zeros([BLOCK], tl.float32)
    ay, axx, ayy, axy = ax, ax, ax, ax
    for i in range(11):
        hx = tl.zeros([BLOCK], tl.float32)
        hy, hxx, hyy, hxy = hx, hx, hx, hx
        for j in tl.static_range(11):
            x, y = _pixel(drawn, taken, mask, corner + 3 * width * i + 3 * j, keep, IS_BYTES, IS_MASKED)
            x, y = x - x0, y - y0
            w = tl.load(weights + j)
            wx, wy = w * x, w * y
            hx += wx
            hy += wy
            hxx += wx * x
            hyy += wy * y
            hxy += wx * y
        w = tl.load(weights + i)
        ax += w * hx
        ay += w * hy
        axx += w * hxx
        ayy += w * hyy
        axy += w * hxy
    mx, my = x0 + ax, y0 + ay
    a1, a2 = 2 * mx * my + C1, 2 * (axy - ax * ay) + C2
    b1, b2 = mx * mx + my * my + C1, (axx - ax * ax) + (ayy - ay * ay) + C2
    value = (a1 / b1) * (a2 / b2)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(keep, value, 0.0)))
    if WITH_SLOPES:
        at = slopes + lane
        by_xx = -value / b2  # half of what x's own square gets
        by_xy = 2 * (a1 / b1) / b2
        by_mean = 2 * (a2 / b2) / b1 * (my - mx * (a1 / b1))
        tl.store(at, by_mean - 2 * ax * by_xx - ay * by_xy, mask=keep)
        tl.store(at + size, 2 * by_xx, mask=keep)
        tl.store(at + 2 * size, by_xy, mask=keep)


@triton.jit(do_not_specialize=["height", "width"])
def _gather(
    drawn,
    taken,
    mask,
    weights,
    slopes,
    gradient,
    sums,
    height,
    width,
    l1_weight,
    ssim_weight,
    IS_BYTES: tl.constexpr,
    IS_MASKED: tl.constexpr,
    WITH_SLOPES: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the sum of |x - y| over a block of values, and the gradient l1_weight |x - y|' - ssim_weight SSIM'."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = at < 3 * height * width
    x, y = _pixel(drawn, taken, mask, at, keep, IS_BYTES, IS_MASKED)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(keep, tl.abs(x - y), 0.0)))
    if WITH_GRADIENT:
        total = tl.where(x > y, l1_weight, tl.where(x < y, -l1_weight, 0.0))
        if WITH_SLOPES:
            n = 3 * (width - 10)
            size = (height - 10) * n
            row, column = at // (3 * width), at % (3 * width)
            ssim = tl.zeros([BLOCK], tl.float32)
            for i in range(11):  # windows whose first row is row - i
                above = row - i
                is_row = keep & (above >= 0) & (above < height - 10)
                along = tl.zeros([BLOCK], tl.float32)
                for j in tl.static_range(11):
                    first = column - 3 * j
                    inside = is_row & (first >= 0) & (first < n)
                    middle = (above + 5) * 3 * width + first + 15
                    qx, qy = _pixel(drawn, taken, mask, middle, inside, IS_BYTES, IS_MASKED)
                    place = slopes + above * n + first
                    slope = tl.load(place, mask=inside, other=0.0)
                    slope += (x - qx) * tl.load(place + size, mask=inside, other=0.0)
                    slope += (y - qy) * tl.load(place + 2 * size, mask=inside, other=0.0)
                    along += tl.load(weights + j) * slope
                ssim += tl.load(weights + i) * along
            total -= ssim_weight * ssim
        if IS_MASKED:
            total = tl.where(tl.load(mask + at // 3, mask=keep, other=0) != 0, total, 0.0)
        tl.store(gradient + at, total, mask=keep)


@triton.jit(do_not_specialize=["n_distances", "n_likenesses"])
def _total(
    distances, likenesses, loss, n_distances, n_likenesses, l1_weight, ssim_weight, ssim_lambda, BLOCK: tl.constexpr
):
    """Write ssim_lambda + l1_weight * sum(distances) - ssim_weight * sum(likenesses), added in float64."""
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, n_distances, BLOCK):
        lane = first + tl.arange(0, BLOCK)
        total += l1_weight * tl.load(distances + lane, mask=lane < n_distances, other=0.0).to(tl.float64)
    for first in range(0, n_likenesses, BLOCK):
        lane = first + tl.arange(0, BLOCK)
        total -= ssim_weight * tl.load(likenesses + lane, mask=lane < n_likenesses, other=0.0).to(tl.float64)
    tl.store(loss, (ssim_lambda + tl.sum(total)).to(tl.float32))


class _Photometric(torch.autograd.Function):
    """Images (H, W, 3) -> (1 - ssim_lambda) * L1 + ssim_lambda * (1 - SSIM)."""

    @staticmethod
    def forward(ctx: Any, drawn: Tensor, taken: Tensor, mask: Tensor | None, n_counted: int, share: float) -> Tensor:
        """Compute value and gradient; `share` is ssim_lambda."""
        height, width = drawn.shape[:2]
        rows, columns = height - EDGE, 3 * (width - EDGE)
        l1_weight, ssim_weight = (1 - share) / (3 * n_counted), share / (rows * columns)
        with_ssim, wanted = share > 0, ctx.needs_input_grad[0]
        # One allocation for all there is in between: sums of both kinds, then the slopes.
        n_likenesses = triton.cdiv(rows * columns, _BLOCK) if with_ssim else 0
        n_distances = triton.cdiv(drawn.numel(), _BLOCK)
        n_slopes = 3 * rows * columns if with_ssim and wanted else 0
        room = torch.empty(n_distances + n_likenesses + n_slopes, dtype=torch.float32, device=drawn.device)
        distances, likenesses, slopes = room.split([n_distances, n_likenesses, n_slopes])
        gradient = torch.empty_like(drawn) if wanted else drawn
        loss = torch.empty((), dtype=torch.float32, device=drawn.device)
        weights = window(drawn.device, torch.float32)
        given = {"IS_BYTES": taken.dtype == torch.uint8, "IS_MASKED": mask is not None, "BLOCK": _BLOCK, **LAUNCH}
        seen = drawn if mask is None else mask.view(torch.uint8)
        sizes = (height, width)
        if with_ssim:
            compared = (drawn, taken, seen, weights, slopes, likenesses, *sizes)
            _compare[(n_likenesses,)](*compared, C1=_C1, C2=_C2, WITH_SLOPES=wanted, **given)
        gathered = (drawn, taken, seen, weights, slopes, gradient, distances, *sizes, l1_weight, ssim_weight)
        _gather[(n_distances,)](*gathered, WITH_SLOPES=with_ssim and wanted, WITH_GRADIENT=wanted, **given)
        weighed = (n_distances, n_likenesses, l1_weight, ssim_weight, share)
        _total[(1,)](distances, likenesses, loss, *weighed, BLOCK=1024, **LAUNCH)
        if wanted:
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the image."""
        return ctx.saved_tensors[0] * by_loss, None, None, None, None


def triton_photometric_loss(
    drawn: Tensor, taken: Tensor, mask: Tensor | None, ssim_lambda: float, *, n_counted: int
) -> Tensor:
    """Return (1 - ssim_lambda) * L1 + ssim_lambda * (1 - SSIM), a scalar, differentiable by `drawn`.

    Args:
        drawn: (H, W, 3) float32.
        taken: (H, W, 3) float32 in [0, 1], or uint8 as in a file.
        mask: (H, W) bool, False: not counted. Such pixels leave L1 and are taken to be right in SSIM's windows.
        ssim_lambda: in [0, 1].
        n_counted: pixels that count, at least 1.

    Raises:
        ValueError: shapes or types differ from these.
    """
    if drawn.shape != taken.shape or drawn.ndim != 3 or drawn.shape[2] != 3 or min(drawn.shape[:2]) < WINDOW:
        raise ValueError(
            f"found images of shape {tuple(drawn.shape)} and {tuple(taken.shape)}; need both (H, W, 3) with H and W "
            f"of at least {WINDOW}"
        )
    if drawn.dtype != torch.float32 or taken.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"found {drawn.dtype} and {taken.dtype}; need float32, and float32 or uint8")
    mask = None if mask is None else mask.contiguous()
    found: Tensor = _Photometric.apply(drawn.contiguous(), taken.contiguous(), mask, n_counted, ssim_lambda)
    return found
