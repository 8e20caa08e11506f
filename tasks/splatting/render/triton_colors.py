"""Triton kernels between the fitted values and gsplat's kernels, forward and backward.

Sizes and opacities are fitted as logarithm and logit, colours as spherical harmonics seen from the camera. Left to
single operations of torch these are some thirty launches a step and a copy of all coefficients.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tasks.splatting.render.triton_parts import LAUNCH

_BLOCK = 128


@triton.jit(do_not_specialize=["n"])
def _activate(scales, logits, extents, opacities, n, BLOCK: tl.constexpr):
    """Write exp(scales) (N, 3) and sigmoid(logits) (N,)."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = lane < n
    for k in tl.static_range(3):
        tl.store(extents + 3 * lane + k, tl.exp(tl.load(scales + 3 * lane + k, mask=keep, other=0.0)), mask=keep)
    tl.store(opacities + lane, tl.sigmoid(tl.load(logits + lane, mask=keep, other=0.0)), mask=keep)


@triton.jit
def _direction(means, view, lane, keep):
    """Return the unit vector from the camera of view (4, 4) to each mean, and one by its length."""
    tx, ty, tz = tl.load(view + 3), tl.load(view + 7), tl.load(view + 11)
    x = tl.load(means + 3 * lane, mask=keep, other=1.0)
    y = tl.load(means + 3 * lane + 1, mask=keep, other=1.0)
    z = tl.load(means + 3 * lane + 2, mask=keep, other=1.0)
    # The camera stands at -R't.
    x += tl.load(view) * tx + tl.load(view + 4) * ty + tl.load(view + 8) * tz
    y += tl.load(view + 1) * tx + tl.load(view + 5) * ty + tl.load(view + 9) * tz
    z += tl.load(view + 2) * tx + tl.load(view + 6) * ty + tl.load(view + 10) * tz
    inverse = 1.0 / tl.sqrt(x * x + y * y + z * z)
    return x * inverse, y * inverse, z * inverse, inverse


@triton.jit
def _basis(x, y, z, K: tl.constexpr):
    """Return the K-th spherical harmonic, 1 to 15, of a unit vector, and its slopes by x, y and z.

    In the order and with the signs of 3DGS, as `tasks.geometry.harmonics`.
    """
    zero = x * 0
    if K == 1:
        return -0.4886025119029199 * y, zero, zero - 0.4886025119029199, zero
    elif K == 2:
        return 0.4886025119029199 * z, zero, zero, zero + 0.4886025119029199
    elif K == 3:
        return -0.4886025119029199 * x, zero - 0.4886025119029199, zero, zero
    elif K == 4:
        c = 1.0925484305920792
        return c * x * y, c * y, c * x, zero
    elif K == 5:
        c = -1.0925484305920792
        return c * y * z, zero, c * z, c * y
    elif K == 6:
        c = 0.31539156525252005
        return c * (2 * z * z - x * x - y * y), -2 * c * x, -2 * c * y, 4 * c * z
    elif K == 7:
        c = -1.0925484305920792
        return c * x * z, c * z, zero, c * x
    elif K == 8:
        c = 0.5462742152960396
        return c * (x * x - y * y), 2 * c * x, -2 * c * y, zero
    elif K == 9:
        c = -0.5900435899266435
        return c * y * (3 * x * x - y * y), 6 * c * x * y, 3 * c * (x * x - y * y), zero
    elif K == 10:
        c = 2.890611442640554
        return c * x * y * z, c * y * z, c * x * z, c * x * y
    elif K == 11:
        c = -0.4570457994644658
        inner = 4 * z * z - x * x - y * y
        return c * y * inner, -2 * c * x * y, c * (inner - 2 * y * y), 8 * c * y * z
    elif K == 12:
        c = 0.3731763325901154
        inner = 2 * z * z - 3 * x * x - 3 * y * y
        return c * z * inner, -6 * c * x * z, -6 * c * y * z, c * (inner + 4 * z * z)
    elif K == 13:
        c = -0.4570457994644658
        inner = 4 * z * z - x * x - y * y
        return c * x * inner, c * (inner - 2 * x * x), -2 * c * x * y, 8 * c * x * z
    elif K == 14:
        c = 1.445305721320277
        return c * z * (x * x - y * y), 2 * c * x * z, -2 * c * y * z, c * (x * x - y * y)
    else:
        c = -0.5900435899266435
        return c * x * (x * x - 3 * y * y), 3 * c * (x * x - y * y), -6 * c * x * y, zero


@triton.jit(do_not_specialize=["n"])
def _color(means, sh0, shN, radii, view, colors, n, stride, N_BASES: tl.constexpr, BLOCK: tl.constexpr):
    """Write the colours (N, 3), not below 0, of the Gaussians in the image; grey where one is not."""
    lane = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    keep = lane < n
    seen = keep & (tl.load(radii + 2 * lane, mask=keep, other=0) > 0)
    seen = seen & (tl.load(radii + 2 * lane + 1, mask=keep, other=0) > 0)
    r = 0.28209479177387814 * tl.load(sh0 + 3 * lane, mask=seen, other=0.0)
    g = 0.28209479177387814 * tl.load(sh0 + 3 * lane + 1, mask=seen, other=0.0)
    b = 0.28209479177387814 * tl.load(sh0 + 3 * lane + 2, mask=seen, other=0.0)
    if N_BASES > 1:
        x, y, z, inverse = _direction(means, view, lane, keep)
        for k in tl.static_range(1, N_BASES):
            value, _x, _y, _z = _basis(x, y, z, k)
            at = shN + lane * stride + 3 * (k - 1)
            r += value * tl.load(at, mask=seen, other=0.0)
            g += value * tl.load(at + 1, mask=seen, other=0.0)
            b += value * tl.load(at + 2, mask=seen, other=0.0)
    tl.store(colors + 3 * lane, tl.maximum(r + 0.5, 0.0), mask=keep)
    tl.store(colors + 3 * lane + 1, tl.maximum(g + 0.5, 0.0), mask=keep)
    tl.store(colors + 3 * lane + 2, tl.maximum(b + 0.5, 0.0), mask=keep)


@triton.jit(do_not_specialize=["n"])
def _back(
    means,
    shN,
    radii,
    view,
    extents,
    opacities,
    colors,
    by_colors,
    by_means,
    by_extents,
    by_opacities,
    by_sh0,
    by_shN,
    n,
    stride,
    N_BASES: tl.constexpr,
    N_HELD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Turn gradients by means, extents, opacities and colours into those by what is fitted, the first three in place.

    `by_means` gets what the colours say by the direction of sight.
    """
    lane = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    keep = lane < n
    for k in tl.static_range(3):
        at = 3 * lane + k
        by = tl.load(by_extents + at, mask=keep, other=0.0) * tl.load(extents + at, mask=keep, other=0.0)
        tl.store(by_extents + at, by, mask=keep)
    opacity = tl.load(opacities + lane, mask=keep, other=0.0)
    by = tl.load(by_opacities + lane, mask=keep, other=0.0) * opacity * (1 - opacity)
    tl.store(by_opacities + lane, by, mask=keep)
    seen = keep & (tl.load(radii + 2 * lane, mask=keep, other=0) > 0)
    seen = seen & (tl.load(radii + 2 * lane + 1, mask=keep, other=0) > 0)
    # A colour that was clamped at 0 has no gradient.
    r = tl.load(by_colors + 3 * lane, mask=seen & (tl.load(colors + 3 * lane, mask=keep, other=0.0) > 0), other=0.0)
    g = tl.load(
        by_colors + 3 * lane + 1, mask=seen & (tl.load(colors + 3 * lane + 1, mask=keep, other=0.0) > 0), other=0.0
    )
    b = tl.load(
        by_colors + 3 * lane + 2, mask=seen & (tl.load(colors + 3 * lane + 2, mask=keep, other=0.0) > 0), other=0.0
    )
    tl.store(by_sh0 + 3 * lane, 0.28209479177387814 * r, mask=keep)
    tl.store(by_sh0 + 3 * lane + 1, 0.28209479177387814 * g, mask=keep)
    tl.store(by_sh0 + 3 * lane + 2, 0.28209479177387814 * b, mask=keep)
    if N_BASES > 1:
        x, y, z, inverse = _direction(means, view, lane, keep)
        gx = tl.zeros([BLOCK], tl.float32)
        gy, gz = gx, gx
        for k in tl.static_range(1, N_BASES):
            value, sx, sy, sz = _basis(x, y, z, k)
            at = lane * stride + 3 * (k - 1)
            tl.store(by_shN + at, value * r, mask=keep)
            tl.store(by_shN + at + 1, value * g, mask=keep)
            tl.store(by_shN + at + 2, value * b, mask=keep)
            by = r * tl.load(shN + at, mask=seen, other=0.0)
            by += g * tl.load(shN + at + 1, mask=seen, other=0.0)
            by += b * tl.load(shN + at + 2, mask=seen, other=0.0)
            gx += by * sx
            gy += by * sy
            gz += by * sz
        along = gx * x + gy * y + gz * z
        at = by_means + 3 * lane
        tl.store(at, tl.load(at, mask=keep, other=0.0) + (gx - along * x) * inverse, mask=keep)
        tl.store(at + 1, tl.load(at + 1, mask=keep, other=0.0) + (gy - along * y) * inverse, mask=keep)
        tl.store(at + 2, tl.load(at + 2, mask=keep, other=0.0) + (gz - along * z) * inverse, mask=keep)
    for k in tl.static_range(N_BASES, N_HELD):  # degrees that are not in use yet
        at = by_shN + lane * stride + 3 * (k - 1)
        for channel in tl.static_range(3):
            tl.store(at + channel, tl.zeros([BLOCK], tl.float32), mask=keep)


def activated(scales: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviations (N, 3) and opacities (N,) of what is fitted."""
    extents, opacities = torch.empty_like(scales), torch.empty_like(logits)
    _activate[(triton.cdiv(len(scales), 256),)](scales, logits, extents, opacities, len(scales), BLOCK=256, **LAUNCH)
    return extents, opacities


def colors_of(means: Tensor, sh0: Tensor, shN: Tensor, radii: Tensor, view: Tensor, sh_degree: int) -> Tensor:
    """Return the colours (N, 3) as seen from the camera.

    Args:
        means: (N, 3).
        sh0, shN: (N, 1, 3) and (N, K - 1, 3) coefficients.
        radii: (N, 2) int32; colours of Gaussians with a 0 in them are not computed.
        view: (4, 4) world to camera, rigid.
        sh_degree: in use, 0 to 3.
    """
    colors = torch.empty_like(means)
    grid = (triton.cdiv(len(means), _BLOCK),)
    sizes = (len(means), 3 * shN.shape[1])
    _color[grid](means, sh0, shN, radii, view, colors, *sizes, N_BASES=(sh_degree + 1) ** 2, BLOCK=_BLOCK, **LAUNCH)
    return colors


def by_fitted(
    fitted: tuple[Tensor, Tensor],
    drawn: tuple[Tensor, Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor, Tensor],
    view: Tensor,
    sh_degree: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradients by sh0 and shN; those by means, extents and opacities change in place into by-fitted ones.

    Args:
        fitted: means (N, 3), shN.
        drawn: radii (N, 2), extents (N, 3), opacities (N,), colors (N, 3), as the image was made with.
        gradients: by means (N, 3), extents (N, 3), opacities (N,), colors (N, 3), contiguous.
        view: (4, 4) world to camera.
        sh_degree: in use.
    """
    (means, shN), (radii, extents, opacities, colors) = fitted, drawn
    by_means, by_extents, by_opacities, by_colors = gradients
    by_sh0, by_shN = torch.empty_like(means), torch.empty_like(shN)
    n_held = shN.shape[1] + 1
    grid = (triton.cdiv(len(means), _BLOCK),)
    read = (means, shN, radii, view, extents, opacities, colors, by_colors)
    written = (by_means, by_extents, by_opacities, by_sh0, by_shN, len(means), 3 * shN.shape[1])
    _back[grid](*read, *written, N_BASES=(sh_degree + 1) ** 2, N_HELD=n_held, BLOCK=_BLOCK, **LAUNCH)
    return by_sh0[:, None], by_shN
