"""Builds optimiser, learning-rate schedule and moving average."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from tasks.training.params import TrainingParams

N = TypeVar("N", bound=nn.Module)


def build_optimizer(model: nn.Module, params: TrainingParams) -> torch.optim.Optimizer:
    """Return the optimiser asked for; biases and norms are not decayed, as in torchvision's references."""
    decayed: list[nn.Parameter] = []
    bare: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else bare).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": params.weight_decay},
        {"params": bare, "weight_decay": 0.0},
    ]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum)
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    # One kernel for all parameters instead of hundreds of small ones; on a CPU it also runs them vectorised.
    return kind(groups, lr=params.learning_rate, fused=True)


def learning_rate(params: TrainingParams, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of optimiser step `step` (from 0): linear warm-up, then constant or a half cosine to 0.

    Source: SGDR without restarts (arXiv:1608.03983), warm-up of arXiv:1706.02677.
    """
    warmup = params.warmup_epochs * steps_per_epoch
    if step < warmup:
        return params.learning_rate * (step + 1) / (warmup + 1)
    if params.schedule == "none":
        return params.learning_rate
    total = params.num_epochs * steps_per_epoch
    done = (step - warmup) / max(1.0, total - warmup)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class MovingAverage:
    """An exponential moving average of a model's weights, itself a model that can be validated.

    The decay starts low, min(decay, (1 + t) / (10 + t)), so that the first steps are forgotten (as in TensorFlow's
    ExponentialMovingAverage). Buffers (batch norm statistics) are copied.
    """

    def __init__(self, model: nn.Module, copy: nn.Module, decay: float) -> None:
        copy.load_state_dict(model.state_dict())
        self.model = copy.requires_grad_(False)
        self._decay = decay
        self._own: list[Tensor] = list(copy.parameters())
        self._source: list[Tensor] = list(model.parameters())
        self._own_buffers: list[Tensor] = list(copy.buffers())
        self._buffers: list[Tensor] = list(model.buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after optimiser step `step` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._own, self._source, 1 - decay)
        if self._buffers:  # a ViT has none
            torch._foreach_copy_(self._own_buffers, self._buffers)


def copy_to_average(build: Callable[[], N], decay: float) -> N | None:
    """Return a second model for a moving average with that decay; None where it is 0.

    In a fork of the generator: a copy must not change what is drawn later.
    """
    with torch.random.fork_rng(devices=[]):
        return build() if decay > 0 else None


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make CUDA choose kernels that give the same result every time, for the block; the CPU's always do.

    cuDNN never searches for algorithms: its heuristics are as fast (ResNet-50 in bf16 on an H200: 4,690 images/s either
    way), and a search costs seconds for each new shape, with the GPU idle: the last batch, validation, the test.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if enabled:
        # cuBLAS reads it at its first product; without it torch up to 2.14 refuses every matrix product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled, warn_only=False)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
