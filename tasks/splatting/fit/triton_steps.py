"""Triton kernels of Adam and of MCMC's noise, one launch each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tasks.splatting.render.triton_parts import LAUNCH

_BLOCK = 1024


@triton.jit
def _adam(values, gradient, first, second, part, n, rate, correction, root, beta1, beta2, epsilon, BLOCK: tl.constexpr):
    """Take Adam's step for one block of one tensor."""
    lane = part.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = lane < n
    g = tl.load(gradient + lane, mask=keep, other=0.0)
    m = tl.load(first + lane, mask=keep, other=0.0)
    v = tl.load(second + lane, mask=keep, other=0.0)
    m = m + (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    tl.store(first + lane, m, mask=keep)
    tl.store(second + lane, v, mask=keep)
    value = tl.load(values + lane, mask=keep, other=0.0)
    step = (rate / correction) * (m / (tl.sqrt(v) / root + epsilon))
    tl.store(values + lane, value - step, mask=keep)


@triton.jit(do_not_specialize=["n0", "n1", "n2", "n3", "n4", "n5"])
def _adam_six(
    v0, g0, m0, s0, n0, rate0,
    v1, g1, m1, s1, n1, rate1,
    v2, g2, m2, s2, n2, rate2,
    v3, g3, m3, s3, n3, rate3,
    v4, g4, m4, s4, n4, rate4,
    v5, g5, m5, s5, n5, rate5,
    correction, root, beta1, beta2, epsilon,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Take Adam's step for six tensors, whose blocks lie one after the other in the grid."""
    p = tl.program_id(0)
    e0 = tl.cdiv(n0, BLOCK)
    e1 = e0 + tl.cdiv(n1, BLOCK)
    e2 = e1 + tl.cdiv(n2, BLOCK)
    e3 = e2 + tl.cdiv(n3, BLOCK)
    e4 = e3 + tl.cdiv(n4, BLOCK)
    if p < e0:
        _adam(v0, g0, m0, s0, p, n0, rate0, correction, root, beta1, beta2, epsilon, BLOCK)
    elif p < e1:
        _adam(v1, g1, m1, s1, p - e0, n1, rate1, correction, root, beta1, beta2, epsilon, BLOCK)
    elif p < e2:
        _adam(v2, g2, m2, s2, p - e1, n2, rate2, correction, root, beta1, beta2, epsilon, BLOCK)
    elif p < e3:
        _adam(v3, g3, m3, s3, p - e2, n3, rate3, correction, root, beta1, beta2, epsilon, BLOCK)
    elif p < e4:
        _adam(v4, g4, m4, s4, p - e3, n4, rate4, correction, root, beta1, beta2, epsilon, BLOCK)
    else:
        _adam(v5, g5, m5, s5, p - e4, n5, rate5, correction, root, beta1, beta2, epsilon, BLOCK)


@dataclass(frozen=True, slots=True)
class Moved:
    """A tensor that Adam moves: its values, their gradient and both moments, contiguous and of one size."""

    values: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    rate: float


def adam(moved: Sequence[Moved], steps: int, *, beta1: float, beta2: float, epsilon: float) -> None:
    """Take Adam's step for up to six tensors in one launch.

    Source: arXiv:1412.6980, algorithm 1, in the order of operations of torch's fused Adam.

    Args:
        moved: changed in place.
        steps: this one included.
        beta1, beta2, epsilon: of Adam.
    """
    arguments: list[Tensor | int | float] = []
    for one in moved:
        arguments += [one.values, one.gradient, one.first, one.second, one.values.numel(), one.rate]
    for _ in range(6 - len(moved)):
        arguments += [*arguments[:4], 0, 0.0]
    n_blocks = sum(triton.cdiv(one.values.numel(), _BLOCK) for one in moved)
    corrections = (1 - beta1**steps, (1 - beta2**steps) ** 0.5)
    _adam_six[(n_blocks,)](*arguments, *corrections, beta1, beta2, epsilon, BLOCK=_BLOCK, **LAUNCH)


@triton.jit(do_not_specialize=["n", "seed"])
def _shake(
    means,
    scales,
    quats,
    logits,
    n,
    seed,
    strength,
    STEEPNESS: tl.constexpr,
    CENTRE: tl.constexpr,
    STILL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move each mean by its covariance times even noise, the less the more opaque it is."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = lane < n
    opacity = tl.sigmoid(tl.load(logits + lane, mask=keep, other=0.0))
    keep = keep & (opacity < STILL)
    fade = strength * tl.sigmoid(STEEPNESS * (1 - opacity - CENTRE))
    w = tl.load(quats + 4 * lane, mask=keep, other=1.0)
    x = tl.load(quats + 4 * lane + 1, mask=keep, other=0.0)
    y = tl.load(quats + 4 * lane + 2, mask=keep, other=0.0)
    z = tl.load(quats + 4 * lane + 3, mask=keep, other=0.0)
    inverse = 1.0 / tl.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    # The covariance is R S^2 R'. R' times isotropic noise is isotropic noise, so it need not be rotated first.
    a = fade * tl.exp(2 * tl.load(scales + 3 * lane, mask=keep, other=0.0)) * tl.randn(seed, 3 * lane)
    b = fade * tl.exp(2 * tl.load(scales + 3 * lane + 1, mask=keep, other=0.0)) * tl.randn(seed, 3 * lane + 1)
    c = fade * tl.exp(2 * tl.load(scales + 3 * lane + 2, mask=keep, other=0.0)) * tl.randn(seed, 3 * lane + 2)
    dx = (1 - 2 * (y * y + z * z)) * a + 2 * (x * y - w * z) * b + 2 * (x * z + w * y) * c
    dy = 2 * (x * y + w * z) * a + (1 - 2 * (x * x + z * z)) * b + 2 * (y * z - w * x) * c
    dz = 2 * (x * z - w * y) * a + 2 * (y * z + w * x) * b + (1 - 2 * (x * x + y * y)) * c
    at = means + 3 * lane
    tl.store(at, tl.load(at, mask=keep, other=0.0) + dx, mask=keep)
    tl.store(at + 1, tl.load(at + 1, mask=keep, other=0.0) + dy, mask=keep)
    tl.store(at + 2, tl.load(at + 2, mask=keep, other=0.0) + dz, mask=keep)


def shake(
    means: Tensor,
    scales: Tensor,
    quats: Tensor,
    opacities: Tensor,
    *,
    seed: int,
    strength: float,
    steepness: float,
    centre: float,
    still: float,
) -> None:
    """Move transparent Gaussians at random, along their own axes by their own extent.

    Source: 3DGS-MCMC (arXiv:2404.09591) eq. 9.

    Args:
        means, scales, quats, opacities: as they are fitted; the first are changed in place.
        seed: below 2**63; the same one and the same place in the tensors give the same noise (Philox).
        strength: of the noise, by the squared extent.
        steepness, centre: how the noise fades with the opacity.
        still: from this opacity on nothing moves.
    """
    n = len(means)
    options = {"STEEPNESS": steepness, "CENTRE": centre, "STILL": still, "BLOCK": 256, **LAUNCH}
    _shake[(triton.cdiv(n, 256),)](means, scales, quats, opacities, n, seed, strength, **options)


@triton.jit(do_not_specialize=["n"])
def _weigh(scales, logits, sums, n, opacity_weight, scale_weight, BLOCK: tl.constexpr):
    """Write the sum of opacity_weight * sigmoid(logits) + scale_weight * exp(scales) over one block."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = lane < n
    total = opacity_weight * tl.sigmoid(tl.load(logits + lane, mask=keep, other=0.0))
    for k in tl.static_range(3):
        total += scale_weight * tl.exp(tl.load(scales + 3 * lane + k, mask=keep, other=0.0))
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(keep, total, 0.0)))


@triton.jit(do_not_specialize=["n"])
def _unweigh(scales, logits, by_scales, by_logits, by_loss, n, opacity_weight, scale_weight, BLOCK: tl.constexpr):
    """Write the gradients of what `_weigh` sums up, times `by_loss`."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = lane < n
    factor = tl.load(by_loss)
    opacity = tl.sigmoid(tl.load(logits + lane, mask=keep, other=0.0))
    tl.store(by_logits + lane, factor * opacity_weight * opacity * (1 - opacity), mask=keep)
    for k in tl.static_range(3):
        extent = tl.exp(tl.load(scales + 3 * lane + k, mask=keep, other=0.0))
        tl.store(by_scales + 3 * lane + k, factor * scale_weight * extent, mask=keep)


class Penalty(torch.autograd.Function):
    """Logarithms of extents (N, 3) and logits (N,) -> opacity_reg * mean opacity + scale_reg * mean extent."""

    @staticmethod
    def forward(ctx: Any, scales: Tensor, logits: Tensor, opacity_reg: float, scale_reg: float) -> Tensor:
        """Compute the value."""
        n = len(logits)
        ctx.weights = opacity_reg / n, scale_reg / (3 * n)
        ctx.save_for_backward(scales, logits)
        sums = torch.empty(triton.cdiv(n, _BLOCK), device=scales.device)
        _weigh[(len(sums),)](scales, logits, sums, n, *ctx.weights, BLOCK=_BLOCK, **LAUNCH)
        return sums.sum()

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by both tensors."""
        scales, logits = ctx.saved_tensors
        by_scales, by_logits = torch.empty_like(scales), torch.empty_like(logits)
        n = len(logits)
        _unweigh[(triton.cdiv(n, 256),)](
            scales, logits, by_scales, by_logits, by_loss, n, *ctx.weights, BLOCK=256, **LAUNCH
        )
        return by_scales, by_logits, None, None
