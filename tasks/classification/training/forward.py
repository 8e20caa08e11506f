"""Runs a model on batches, in smaller pieces where the device lacks memory."""

from collections.abc import Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from gpu_pools.stopping import look
from tasks.training.batches import Batches, Normalise, ahead
from tasks.training.pieces import OneShape, Pieces
from tasks.training.precision import Precision, autocast

R = TypeVar("R")


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Batches, device: torch.device, precision: Precision
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits (B, n_classes) float32, labels (B,) int64), both on the device, in the order of the batches.

    Raises:
        Interrupted: a signal has come.
    """
    model.eval()
    normalise, padded = Normalise(device), OneShape(device)
    pieces = Pieces(device)

    def logits_of(images: Tensor, n: int) -> Tensor:
        with autocast(device, precision):
            return torch.cat([model(normalise(piece)).float() for piece in images.chunk(n)])

    for images, labels in ahead(batches.epoch(0), device):
        look()
        images = padded(images)
        yield pieces.run(partial(logits_of, images), len(images))[: len(labels)], labels
