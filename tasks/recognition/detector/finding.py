"""Runs a detector on scenes, batch by batch, without changing them."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_pools.stopping import look
from tasks.recognition.detector.networks import Detector, Found
from tasks.recognition.detector.training.augment import pixels_of, plain
from tasks.recognition.detector.training.scenes import Scenes
from tasks.recognition.params import DetectorParams
from tasks.training.batches import Batches, ahead
from tasks.training.pieces import OneShape, Pieces
from tasks.training.precision import Precision, autocast

Truth = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
"""Of an image: boxes (M, 4) in the pixels that the network sees, class numbers (M,), whether each is a crowd (M,)."""


@torch.inference_mode()
def find_all(
    model: Detector, scenes: Scenes, params: DetectorParams, device: torch.device, precision: Precision
) -> Iterator[tuple[Found, list[Truth]]]:
    """Yield what is found on the scenes, and what is there, a batch at a time and in their order.

    Raises:
        Interrupted: a signal has come.
    """
    model.eval()
    size = params.image_size
    batches = Batches(
        lambda number: pixels_of(plain(number), scenes, size),
        range(len(scenes)),
        params.batch_size,
        n_workers=params.n_workers,
        pin=device.type == "cuda",
        join_last=False,
    )
    padded, pieces = OneShape(device), Pieces(device)

    def found_on(images: Tensor, n: int) -> Found:
        with autocast(device, precision):
            return [row for piece in images.chunk(n) for row in model.find(piece.float() / 255)]

    for images, numbers in ahead(batches.epoch(0), device):
        look()
        batch = padded(images)
        found = pieces.run(partial(found_on, batch), len(batch))[: len(images)]
        yield found, [truth_of(scenes, number, size) for number in numbers.tolist()]


def truth_of(scenes: Scenes, number: int, size: int) -> Truth:
    """Return what is on a scene, in the pixels that a network of that size sees."""
    return scenes.boxes[number] * size, scenes.labels[number], scenes.crowds[number]
