"""Runs a detector on scenes, batch by batch, without changing them."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gpu_pools.stopping import look
from tasks.recognition.detector.networks import MAX_FOUND, Detector, Found
from tasks.recognition.detector.training.augment import pixels_of, plain
from tasks.recognition.detector.training.scenes import Scenes
from tasks.recognition.params import DetectorParams
from tasks.training.batches import Batches, ahead
from tasks.training.parallel.ranks import ALONE, Ranks
from tasks.training.pieces import OneShape, Pieces
from tasks.training.precision import Precision, autocast

Truth = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
"""Of an image: boxes (M, 4) in the pixels that the network sees, class numbers (M,), whether each is a crowd (M,)."""


_ROW = 6  # numbers of a detection: a box, a score, a label


@torch.inference_mode()
def find_all(
    model: Detector,
    scenes: Scenes,
    params: DetectorParams,
    device: torch.device,
    precision: Precision,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[Found, list[Truth]]]:
    """Yield what is found on the scenes, and what is there, a batch at a time and in their order.

    Args:
        model: on the device.
        scenes: to look at.
        params: of the detector.
        device, precision: to compute on and in.
        ranks: processes that look at some of the batches each; all get all.

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
        mine=ranks.whole_batches,
    )
    padded, pieces = OneShape(device), Pieces(device)

    def found_on(images: Tensor, n: int) -> Found:
        with autocast(device, precision):
            return [row for piece in images.chunk(n) for row in model.find(piece.float() / 255)]

    def answers() -> Iterator[tuple[Found, Tensor]]:
        for images, numbers in ahead(batches.epoch(0), device):
            look()
            batch = padded(images)
            yield pieces.run(partial(found_on, batch), len(batch))[: len(images)], numbers

    for found, numbers in _of_all(answers(), ranks, batches.sizes):
        yield found, [truth_of(scenes, number, size) for number in numbers.tolist()]


def _of_all(
    answers: Iterator[tuple[Found, Tensor]], ranks: Ranks, sizes: Sequence[int]
) -> Iterator[tuple[Found, Tensor]]:
    """Yield what all processes found, in the order of the batches."""
    if ranks.size == 1:
        yield from answers
        return
    rows = ((torch.stack([_packed(row) for row in found]), numbers) for found, numbers in answers)
    for packed, numbers in ranks.gathered(rows, sizes, 1 + MAX_FOUND * _ROW):
        yield [_unpacked(row) for row in packed], numbers


def _packed(found: dict[str, Tensor]) -> Tensor:
    """Return the detections of one image as (1 + MAX_FOUND * _ROW,) float32: how many, and their numbers."""
    columns = [found["boxes"], found["scores"][:, None], found["labels"][:, None]]
    rows = torch.cat([column.float() for column in columns], 1).flatten()
    return F.pad(torch.cat([rows.new_full((1,), len(found["scores"])), rows]), (0, MAX_FOUND * _ROW - len(rows)))


def _unpacked(packed: Tensor) -> dict[str, Tensor]:
    rows = packed[1 : 1 + int(packed[0]) * _ROW].view(-1, _ROW)
    return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}


def truth_of(scenes: Scenes, number: int, size: int) -> Truth:
    """Return what is on a scene, in the pixels that a network of that size sees."""
    return scenes.boxes[number] * size, scenes.labels[number], scenes.crowds[number]
