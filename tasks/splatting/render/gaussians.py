"""The tensors of a splat, under gsplat's names."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(slots=True)
class Gaussians:
    """N Gaussians with colour as spherical harmonics, in the units they are fitted in.

    Source: 3DGS (arXiv:2308.04079) sec. 4; parameter names and activations as upstream gsplat.
    """

    means: Tensor  # (N, 3) world units
    scales: Tensor  # (N, 3) natural logarithm of the standard deviation, world units
    quats: Tensor  # (N, 4) w x y z, of any length but zero
    opacities: Tensor  # (N,) logit
    sh0: Tensor  # (N, 1, 3) coefficient of degree 0: colour = 0.5 + 0.28209479 * sh0
    shN: Tensor  # (N, (degree + 1) ** 2 - 1, 3) the higher ones, in the order of 3DGS

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Return the degree of the spherical harmonics, 0 to 3."""
        return int((self.shN.shape[1] + 1) ** 0.5 + 0.5) - 1

    def tensors(self) -> dict[str, Tensor]:
        """Return the six tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @torch.no_grad()
    def detached(self) -> "Gaussians":
        """Return a copy outside any graph, on the CPU."""
        return Gaussians(**{name: tensor.detach().cpu().clone() for name, tensor in self.tensors().items()})

    @torch.no_grad()
    def moved_to(self, device: torch.device) -> "Gaussians":
        """Return them on a device."""
        return Gaussians(**{name: tensor.to(device) for name, tensor in self.tensors().items()})
