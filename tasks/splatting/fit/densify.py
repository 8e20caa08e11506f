"""The default strategy of 3DGS: Gaussians are cloned, split and pruned.

Source: 3DGS (arXiv:2308.04079) sec. 5.2; constants and order as upstream gsplat strategy/default.py. Different here:
at `cap_max` Gaussians those that are pulled at most come first.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.geometry.rotations import rotation_matrices
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.presets import Settings
from tasks.splatting.render.rasterizer import Rendered
from tasks.training.parallel.ranks import ALONE

SPLIT_SHRINK = 1.6  # the scale of a split Gaussian is divided by this
RESET_FACTOR = 2.0  # opacities are reset to this many times the threshold of pruning


class Densify:
    """Clones, splits, prunes and resets Gaussians.

    Args:
        settings: of the fit.
        generator: on the device of the Gaussians; its state is part of the fit's.
        scene_size: world units.
        n_gaussians: at the start.
    """

    def __init__(self, settings: Settings, generator: torch.Generator, scene_size: float, n_gaussians: int) -> None:
        self._settings, self._generator, self._scene_size = settings, generator, scene_size
        self.cap_max = settings.cap_max
        self.ranks = ALONE
        self.pull = torch.zeros(n_gaussians, device=generator.device)  # (N,) sum of gradients, in half images
        self.seen = torch.zeros(n_gaussians, device=generator.device)  # (N,) images it was in

    @torch.no_grad()
    def after_step(self, optimizer: SplatOptimizer, rendered: Sequence[Rendered], step: int, means_lr: float) -> None:
        """Do what is due after an optimiser step.

        Args:
            optimizer: changed in place.
            rendered: the images of the step in this process, with the gradient by `means2d`.
            step: from 0.
            means_lr: not used by this strategy.
        """
        s = self._settings
        if step >= s.refine_stop:
            return
        self._look(rendered)
        if step > s.refine_start and step % s.refine_every == 0:
            self._grow(optimizer)
            self._prune(optimizer, step)
            self.pull, self.seen = (torch.zeros(len(optimizer.gaussians), device=self.pull.device) for _ in range(2))
        if step > 0 and step % s.reset_every == 0:
            self._reset(optimizer)

    def _look(self, rendered: Sequence[Rendered]) -> None:
        """Note how hard each image pulls at each Gaussian in it, over all processes."""
        pull, seen = torch.zeros_like(self.pull), torch.zeros_like(self.seen)
        for image in rendered:
            grad = image.means2d.grad
            assert grad is not None, "the rasteriser leaves the gradient of means2d"
            height, width = image.alphas.shape
            # The loss is the mean over the images of the step; each one's own gradient is meant.
            scale = self._settings.batch_size / 2
            pull += torch.where(
                image.visible, torch.hypot(grad[:, 0] * (width * scale), grad[:, 1] * (height * scale)), 0
            )
            seen += image.visible
        self.ranks.add_up_all([pull, seen])
        self.pull += pull
        self.seen += seen

    def _grow(self, optimizer: SplatOptimizer) -> None:
        s = self._settings
        pull = self.pull / self.seen.clamp(min=1)
        room = max(0, self.cap_max - len(optimizer.gaussians))
        wanted = pull > s.grow_grad2d
        if int(wanted.sum()) > room:
            strongest = torch.zeros_like(wanted)
            strongest[torch.topk(pull, room).indices] = True
            wanted &= strongest
        small = optimizer.gaussians.scales.max(1).values <= math.log(s.grow_scale3d * self._scene_size)
        cloned, split = (wanted & small).nonzero()[:, 0], (wanted & ~small).nonzero()[:, 0]
        tensors = {name: tensor.detach() for name, tensor in optimizer.gaussians.tensors().items()}
        more = {name: torch.cat([tensor[cloned], tensor[split]]) for name, tensor in tensors.items()}
        if len(split):
            first, second = self._halves(tensors, split)
            for name in first:
                more[name][len(cloned) :] = second[name]
            optimizer.overwrite(split, first)
            optimizer.forget(split)
        optimizer.append(more)

    def _halves(self, tensors: Mapping[str, Tensor], rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return places and sizes of the two Gaussians that each of `rows` becomes."""
        scales = torch.exp(tensors["scales"][rows])
        turned = rotation_matrices(tensors["quats"][rows])
        noise = torch.randn(2, len(rows), 3, generator=self._generator, device=rows.device) * scales
        moved = tensors["means"][rows] + (turned @ noise[..., None])[..., 0]  # (2, M, 3)
        smaller = torch.log(scales / SPLIT_SHRINK)
        return {"means": moved[0], "scales": smaller}, {"means": moved[1], "scales": smaller}

    def _prune(self, optimizer: SplatOptimizer, step: int) -> None:
        s, g = self._settings, optimizer.gaussians
        gone = torch.sigmoid(g.opacities) < s.prune_opa
        if step > s.reset_every:
            gone |= g.scales.max(1).values > math.log(s.prune_scale3d * self._scene_size)
        if gone.any() and not gone.all():
            optimizer.keep(~gone)

    def _reset(self, optimizer: SplatOptimizer) -> None:
        """Make all Gaussians nearly transparent; those that are needed come back."""
        value = RESET_FACTOR * self._settings.prune_opa
        logit = math.log(value / (1 - value))
        optimizer.overwrite(slice(None), {"opacities": optimizer.gaussians.opacities.detach().clamp(max=logit)})
        optimizer.forget(slice(None), "opacities")

    def kept(self, rows: Tensor) -> None:
        """Hear that only these Gaussians are left."""
        self.pull, self.seen = self.pull[rows], self.seen[rows]

    def state_dict(self) -> dict[str, Any]:
        """Return what is not in the Gaussians."""
        return {"cap_max": self.cap_max, "pull": self.pull, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        device = self.pull.device
        self.cap_max, self.pull, self.seen = state["cap_max"], state["pull"].to(device), state["seen"].to(device)
