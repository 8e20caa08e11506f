"""Flips and mixes images on the device."""

import numpy as np
import torch
from torch import Tensor

from tasks.training.batches import sent


def mirror(images: Tensor, which: np.ndarray) -> Tensor:
    """Return (B, C, H, W), the images of which (B,) is true mirrored left to right."""
    mirrored = sent(torch.from_numpy(which), images.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def mix_pairs(images: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Return each image mixed with another one, the labels of the others, and the share of the image itself.

    Source: mixup (arXiv:1710.09412).
    """
    share = float(rng.beta(alpha, alpha))
    order = sent(torch.from_numpy(rng.permutation(len(labels))), images.device)
    return share * images + (1 - share) * images[order], labels[order], share
