"""Weighs the classes of a loss by how rare they are."""

from collections.abc import Sequence

import torch
from torch import Tensor


def balanced_weights(labels: Sequence[int] | Tensor, n_classes: int) -> Tensor:
    """Return (n_classes,) float32 loss weights inverse to how often a class occurs; their mean over images is 1."""
    counts = torch.bincount(torch.as_tensor(labels), minlength=n_classes).float()
    return counts.sum() / (n_classes * counts.clamp(min=1))
