"""Adam over the tensors of Gaussians that come and go while it runs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from tasks.splatting.gaussians import Gaussians

BETA1, BETA2 = 0.9, 0.999
# Source: upstream gsplat examples/simple_trainer.py. Gradients by Gaussians are tiny; the usual 1e-8 would damp them.
EPSILON = 1e-15


class SplatOptimizer:
    """The Gaussians that are fitted, and the two moments of Adam of every value in them.

    Rows are Gaussians: whatever happens to a row of `gaussians` happens to the same row of the moments.

    Args:
        gaussians: where to start; taken over, on their device, as leaves that want gradients.
    """

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        self.steps = torch.zeros((), dtype=torch.float32, device=gaussians.means.device)
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
        before = self.steps.clone()
        for name, tensor in self.gaussians.tensors().items():
            if tensor.grad is None or tensor.numel() == 0:  # shN of degree 0 holds nothing
                continue
            self.steps.copy_(before)  # one count for all tensors; each call adds one to it
            adam(
                [tensor],
                [tensor.grad],
                [self.first[name]],
                [self.second[name]],
                [],
                [self.steps],
                fused=True,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=rates[name],
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )
            tensor.grad = None

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Leave only some Gaussians.

        Args:
            rows: (M,) int64, or (N,) bool.
        """
        kept = {name: tensor.detach()[rows] for name, tensor in self.gaussians.tensors().items()}
        first = {name: tensor[rows] for name, tensor in self.first.items()}
        second = {name: tensor[rows] for name, tensor in self.second.items()}
        # All of it is made before any of it is taken over: out of memory on the way leaves the state whole.
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
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, onto the device the Gaussians are on."""
        device = self.gaussians.means.device
        self.first = {name: tensor.to(device) for name, tensor in state["first"].items()}
        self.second = {name: tensor.to(device) for name, tensor in state["second"].items()}
        self.steps = state["steps"].to(device)
        self._set({name: tensor.to(device) for name, tensor in state["gaussians"].items()})
