"""The MCMC strategy: dead Gaussians move to living ones, and noise explores.

Source: 3DGS-MCMC (arXiv:2404.09591); windows and constants as upstream gsplat strategy/mcmc.py.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tasks.geometry.rotations import rotation_matrices
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.presets import Settings
from tasks.splatting.render.rasterizer import Rendered
from tasks.splatting.render.triton_parts import triton_part
from tasks.training.parallel.ranks import ALONE

MAX_COPIES = 51  # at one place in one refinement; what is above counts as that many
# Noise fades where a Gaussian is opaque: 1 / (1 + exp(-100 * ((1 - opacity) - 0.995))), eq. 8. Above this opacity it
# is less than 1e-6 of its scale, and left out.
NOISE_STEEPNESS, NOISE_CENTRE, STILL = 100.0, 0.995, 0.15


class Mcmc:
    """Relocates, grows and shakes Gaussians.

    Args:
        settings: of the fit.
        generator: on the device of the Gaussians; its state is part of the fit's.
    """

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        self._settings, self._generator = settings, generator
        self.cap_max = settings.cap_max
        self.ranks = ALONE

    def after_step(self, optimizer: SplatOptimizer, rendered: Sequence[Rendered], step: int, means_lr: float) -> None:
        """Do what is due after an optimiser step.

        Args:
            optimizer: changed in place.
            rendered: the images of the step; this strategy does not look at them.
            step: from 0.
            means_lr: the learning rate that the means were just moved with.
        """
        s = self._settings
        if s.refine_start < step < s.refine_stop and step % s.refine_every == 0:
            self._relocate(optimizer)
            self._grow(optimizer)
        self._shake(optimizer, step, means_lr * s.noise_lr)

    @torch.no_grad()
    def _relocate(self, optimizer: SplatOptimizer) -> None:
        """Put dead Gaussians where living ones are, each by the chance of its opacity."""
        opacities = torch.sigmoid(optimizer.gaussians.opacities)
        is_dead = opacities <= self._settings.min_opacity
        dead = is_dead.nonzero()[:, 0]  # (D,)
        alive = (~is_dead).nonzero()[:, 0]  # (A,)
        if not len(dead) or not len(alive):
            return
        sources = alive[self._drawn(opacities[alive], len(dead))]  # (D,)
        self._share(optimizer, opacities, sources)
        copies = {name: tensor.detach()[sources] for name, tensor in optimizer.gaussians.tensors().items()}
        optimizer.overwrite(dead, copies)
        optimizer.forget(dead)
        optimizer.forget(sources)

    @torch.no_grad()
    def _grow(self, optimizer: SplatOptimizer) -> None:
        n = len(optimizer.gaussians)
        n_more = min(self.cap_max, math.ceil(self._settings.growth * n)) - n
        if n_more <= 0:
            return
        opacities = torch.sigmoid(optimizer.gaussians.opacities)
        sources = self._drawn(opacities, n_more)
        self._share(optimizer, opacities, sources)
        optimizer.append({name: tensor.detach()[sources] for name, tensor in optimizer.gaussians.tensors().items()})

    def _drawn(self, weights: Tensor, n: int) -> Tensor:
        """Return what `draw` does, the same in all processes: a GPU adds up weights in no order of its own twice."""
        return self.ranks.as_first(draw(weights, n, self._generator))

    def _share(self, optimizer: SplatOptimizer, opacities: Tensor, sources: Tensor) -> None:
        """Give each source the opacity and size that it has to have when its copies lie at its place."""
        copies = torch.bincount(sources, minlength=len(opacities))[sources] + 1
        scales = torch.exp(optimizer.gaussians.scales.detach()[sources])
        new_opacities, new_scales = shared(opacities[sources], scales, copies)
        low = self._settings.min_opacity
        optimizer.overwrite(
            sources,
            {"opacities": torch.logit(new_opacities.clamp(low, 1 - 1e-7)), "scales": torch.log(new_scales)},
        )

    @torch.no_grad()
    def _shake(self, optimizer: SplatOptimizer, step: int, scale: float) -> None:
        """Move transparent Gaussians at random, along their own axes by their own extent (eq. 9)."""
        g = optimizer.gaussians
        if scale and (fused := triton_part("fit.triton_steps", g.means.device)):
            curve = {"steepness": NOISE_STEEPNESS, "centre": NOISE_CENTRE, "still": STILL}
            seed = (self._settings.seed % 2**31 << 32) + step  # noise of its own for every step, the same when resumed
            fused.shake(g.means, g.scales, g.quats, g.opacities, seed=seed, strength=scale, **curve)
            return
        opacities = torch.sigmoid(g.opacities)
        rows = (opacities < STILL).nonzero()[:, 0]
        if scale == 0 or not len(rows):
            return
        fade = torch.sigmoid(NOISE_STEEPNESS * (1 - opacities[rows] - NOISE_CENTRE))
        # The covariance is R S^2 R'. R' times isotropic noise is isotropic noise, so it need not be rotated first.
        noise = torch.randn(len(rows), 3, generator=self._generator, device=rows.device)
        noise *= torch.exp(2 * g.scales[rows]) * (fade * scale)[:, None]
        g.means.data[rows] += (rotation_matrices(g.quats[rows]) @ noise[:, :, None])[:, :, 0]

    def kept(self, rows: Tensor) -> None:
        """Hear that only these Gaussians are left; nothing is kept by Gaussian here."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is not in the Gaussians."""
        return {"cap_max": self.cap_max}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.cap_max = state["cap_max"]


def draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n indices, drawn with replacement by weight, (n,) int64; torch.multinomial ends at 2**24 weights."""
    ends = weights.double().cumsum(0)
    at = torch.rand(n, dtype=torch.float64, generator=generator, device=weights.device) * ends[-1]
    return torch.searchsorted(ends, at, right=True).clamp(max=len(weights) - 1)


def shared(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the opacity and the scales of each of n equal Gaussians that together look like the one before.

    Source: arXiv:2404.09591 eq. 9 and its appendix. Its double sum over i and k has, by the hockey-stick identity,
    the binomial of (n, k + 1) as its inner sum over i.

    Args:
        opacities: (M,) in (0, 1).
        scales: (M, 3) world units.
        copies: (M,) int64, at least 1, the one before included.
    """
    n = copies.clamp(1, MAX_COPIES)
    old = opacities.double()
    new = 1 - (1 - old) ** (1 / n)
    powers = new[:, None] ** torch.arange(1, MAX_COPIES + 1, device=new.device)  # (M, MAX_COPIES)
    total = (_coefficients().to(new.device)[n] * powers).sum(1)
    return new.float(), (scales.double() * (old / total)[:, None]).float()


@cache
def _coefficients() -> Tensor:
    """Return (MAX_COPIES + 1, MAX_COPIES): what the k-th power of the opacity counts among n copies."""
    table = torch.zeros(MAX_COPIES + 1, MAX_COPIES, dtype=torch.float64)
    for n in range(1, MAX_COPIES + 1):
        for k in range(n):
            table[n, k] = (-1) ** k * math.comb(n, k + 1) / math.sqrt(k + 1)
    return table
