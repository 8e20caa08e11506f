"""Adam for tensors of Gaussians whose number changes during the fit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.triton_parts import triton_part

BETA1, BETA2 = 0.9, 0.999
# Source: upstream gsplat examples/simple_trainer.py. Gradients by Gaussians are tiny; the usual 1e-8 would damp them.
EPSILON = 1e-15


class SplatOptimizer:
    """The Gaussians that are fitted, and the two moments of Adam of every value in them.

    Rows are Gaussians: whatever happens to a row of `gaussians` happens to the same row of the moments.

    Args:
        gaussians: where to start; taken over, on their device, as leaves that want gradients.
        batch_size: images of a step; with several, the moments forget as fast by images as with one. Source: upstream
            gsplat examples/simple_trainer.py, after Malladi et al. 2022 (arXiv:2205.10287).
    """

    def __init__(self, gaussians: Gaussians, batch_size: int = 1) -> None:
        self.gaussians = gaussians
        self._beta1, self._beta2 = (_by_batch(beta, batch_size) for beta in (BETA1, BETA2))
        self._epsilon = EPSILON / math.sqrt(batch_size)
        self.n_steps = 0
        self.first = {name: torch.zeros_like(tensor) for name, tensor in gaussians.tensors().items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in gaussians.tensors().items()}
        self._set(gaussians.tensors())

    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            setattr(self.gaussians, name, tensor.detach().contiguous().requires_grad_())

    @torch.no_grad()
    def step(self, rates: Mapping[str, float]) -> None:
        """Take one step of Adam from the gradients in the tensors, and drop them.

        Args:
            rates: the learning rate of every tensor, by name.
        """
        moved = [(name, t) for name, t in self.gaussians.tensors().items() if t.grad is not None and t.numel()]
        self.n_steps += 1
        if fused := triton_part("fit.triton_steps", self.gaussians.means.device):
            rows = [fused.Moved(t, t.grad, self.first[name], self.second[name], rates[name]) for name, t in moved]
            fused.adam(rows, self.n_steps, beta1=self._beta1, beta2=self._beta2, epsilon=self._epsilon)
        else:
            self._step_each(moved, rates)
        for _, tensor in moved:
            tensor.grad = None

    def _step_each(self, moved: Sequence[tuple[str, Tensor]], rates: Mapping[str, float]) -> None:
        """Take the step by one call of torch per tensor, as each has a learning rate of its own."""
        for name, tensor in moved:
            assert tensor.grad is not None, "only such are moved"
            before = torch.full((), float(self.n_steps - 1), device=tensor.device)  # each call adds one to it
            adam(
                [tensor],
                [tensor.grad],
                [self.first[name]],
                [self.second[name]],
                [],
                [before],
                fused=True,
                amsgrad=False,
                beta1=self._beta1,
                beta2=self._beta2,
                lr=rates[name],
                weight_decay=0.0,
                eps=self._epsilon,
                maximize=False,
            )

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Leave only some Gaussians.

        Args:
            rows: (M,) int64, or (N,) bool.
        """
        kept = {name: tensor.detach()[rows] for name, tensor in self.gaussians.tensors().items()}
        first = {name: tensor[rows] for name, tensor in self.first.items()}
        second = {name: tensor[rows] for name, tensor in self.second.items()}
        # Everything is allocated before anything is replaced, so that running out of memory leaves the state whole.
        self.first, self.second = first, second
        self._set(kept)

    @torch.no_grad()
    def append(self, more: Mapping[str, Tensor]) -> None:
        """Add Gaussians at the end, without momentum.

        Args:
            more: the six tensors by name, M rows each.
        """
        joined = {name: torch.cat([tensor.detach(), more[name]]) for name, tensor in self.gaussians.tensors().items()}
        first = {name: torch.cat([tensor, torch.zeros_like(more[name])]) for name, tensor in self.first.items()}
        second = {name: torch.cat([tensor, torch.zeros_like(more[name])]) for name, tensor in self.second.items()}
        self.first, self.second = first, second
        self._set(joined)

    @torch.no_grad()
    def overwrite(self, rows: Tensor | slice, values: Mapping[str, Tensor]) -> None:
        """Give rows other values in some tensors, in place; the moments stay."""
        for name, tensor in values.items():
            getattr(self.gaussians, name).data[rows] = tensor

    def forget(self, rows: Tensor | slice, *names: str) -> None:
        """Set the moments of rows to nothing, in all tensors or in those named."""
        for name in names or tuple(self.first):
            self.first[name][rows] = 0
            self.second[name][rows] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return Gaussians, moments and their count."""
        return {
            "gaussians": {name: tensor.detach() for name, tensor in self.gaussians.tensors().items()},
            "first": self.first,
            "second": self.second,
            "steps": torch.tensor(float(self.n_steps)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, onto the device the Gaussians are on."""
        device = self.gaussians.means.device
        self.first = {name: tensor.to(device) for name, tensor in state["first"].items()}
        self.second = {name: tensor.to(device) for name, tensor in state["second"].items()}
        self.n_steps = int(state["steps"])
        self._set({name: tensor.to(device) for name, tensor in state["gaussians"].items()})


def _by_batch(beta: float, batch_size: int) -> float:
    return beta if batch_size == 1 else max(0.0, 1 - batch_size * (1 - beta))
