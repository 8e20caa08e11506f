"""Runs a model on images that threads prepare meanwhile; memory holds a few batches only."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.base.errors import ImageError, WeightsError
from tasks.images.decoding import resize_rgb
from tasks.images.files import in_threads
from tasks.images.prepare import Rgb
from tasks.inference.sources import PendingImage
from tasks.training.batches import Normalise
from tasks.training.pieces import OneShape, Pieces
from tasks.training.precision import Precision, autocast

T = TypeVar("T")

_AHEAD = 2  # batches that wait for the model, at most
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image that a detector proposes; its edges as shares of the image, in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float
    score: float  # in [0, 1]
    name: str | None = None  # what a detector of parts takes it for


@dataclass(frozen=True, slots=True)
class Named:
    """What a model of parts says of an image or region."""

    ranking: tuple[tuple[str, float], ...]  # names with their scores in [0, 1], best first, at least one
    nearest: str | None = None  # the view that looks most like it
    rotation: tuple[float, float, float, float] | None = None  # of the part there: quaternion w, x, y, z


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image as the model sees it, or why there is none."""

    job: PendingImage
    pixels: Rgb | None  # (S, S, 3); (H, W, 3) for a detector
    size: tuple[int, int]  # (width, height) of the prepared image; (0, 0) without one
    seconds: float  # of preparing it
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the model says of one image, or why there is nothing to say."""

    path: str
    time_s: float | None
    logits: NDArray[np.float32] | None  # (C,)
    pixels: Rgb | None  # (S, S, 3), for images of the result
    size: tuple[int, int]  # (width, height) of the prepared image
    seconds: float  # preparing it, and its share of the batch
    error: str | None
    region: Region | None = None  # what was looked at; None: the whole image
    number: int = 0  # of the region in its image
    named: Named | None = None  # instead of logits: of a model of parts
    whole: Rgb | None = None  # (H, W, 3), the prepared image that a detector looked at


class Predictor:
    """A model on its device that answers batches, in pieces where the memory asks for it.

    Args:
        model: (B, 3, S, S) float32 -> (B, C) logits, on the device, in evaluation mode.
        device: to compute on.
        precision: to compute in.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self._pieces = Pieces(device)
        self._model = model
        self._normalise = Normalise(device)
        self._padded = OneShape(device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return (B, C) logits of (B, 3, S, S) uint8 images.

        Raises:
            RuntimeError: one image does not fit into the device's memory.
            WeightsError: an answer is not finite.
        """
        n_images, images = len(images), self._padded(images)

        def logits_of(n: int) -> NDArray[np.float32]:
            answer: NDArray[np.float32] = torch.cat([self._piece(piece) for piece in images.chunk(n)]).cpu().numpy()
            return answer

        logits = self._pieces.run(logits_of, len(images))[:n_images]
        if not np.isfinite(logits).all():
            raise WeightsError(f"the model answers with {logits[~np.isfinite(logits)][0]}, need finite numbers")
        return logits

    @property
    def n_pieces(self) -> int:
        """Return into how many pieces batches are cut, since memory ran out."""
        return self._pieces.n

    def _piece(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            answer: Tensor = self._model(self._normalise(images.to(self.device, non_blocking=True)))
        return answer.float()


def answers(
    todo: Iterator[PendingImage], predictor: Predictor, size: int, batch_size: int, n_workers: int = 0
) -> Iterator[list[Answer]]:
    """Yield the answers to all jobs, a batch at a time, in order; an image that cannot be used is an answer, too.

    Args:
        todo: taken from a thread of its own, a little ahead of the model.
        predictor: the model.
        size: S, side of the images the model takes, pixels.
        batch_size: images at once, at least 1.
        n_workers: threads that prepare images; 0: one per core.

    Raises:
        DatasetError: a video or recording is damaged.
        WeightsError: an answer is not finite.
    """
    for batch in ahead(todo, size, batch_size, n_workers):
        good = [row.pixels for row in batch if row.pixels is not None]
        started = time.perf_counter()
        logits = predictor(stacked(good)) if good else np.zeros((0, 0), np.float32)
        share = (time.perf_counter() - started) / max(1, len(good))
        rows = iter(logits)
        yield [
            Answer(
                path=str(row.job.path),
                time_s=row.job.time_s,
                logits=None if row.pixels is None else next(rows),
                pixels=row.pixels,
                size=row.size,
                seconds=row.seconds + (0.0 if row.pixels is None else share),
                error=row.error,
            )
            for row in batch
        ]


def stacked(images: Sequence[Rgb]) -> Tensor:
    """Return (B, 3, S, S) uint8, channels last in memory, of B images (S, S, 3)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def load(job: PendingImage, size: int | None) -> Loaded:
    """Return an image squashed to a size, or as prepared; one that cannot be used comes back with its error."""
    started = time.perf_counter()
    try:
        rgb = job.pixels()
    except ImageError as exc:
        return Loaded(job, None, (0, 0), time.perf_counter() - started, str(exc))
    height, width = rgb.shape[:2]
    pixels = rgb if size is None else resize_rgb(rgb, size)
    return Loaded(job, pixels, (width, height), time.perf_counter() - started)


def ahead(todo: Iterator[PendingImage], size: int | None, batch_size: int, n_workers: int) -> Iterator[list[Loaded]]:
    """Yield batches that a thread has made ready, in order; at most `_AHEAD` wait, so memory is bounded.

    Whoever stops taking batches ends the threads.

    Args:
        todo: taken from that thread.
        size: side of the images, pixels; None: as they are prepared.
        batch_size: images in a batch, at least 1.
        n_workers: threads that prepare images; 0: one per core.
    """
    ready: queue.Queue[list[Loaded] | BaseException | None] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def produce() -> None:
        last: BaseException | None = None
        try:
            for batch in _grouped(in_threads(partial(load, size=size), todo, n_workers), batch_size):
                if not _put(ready, batch, stop):
                    return
        except BaseException as exc:  # raised again where the batches are taken
            last = exc
        _put(ready, last, stop)

    thread = threading.Thread(target=produce, name="prepare", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _put(ready: queue.Queue[T], item: T, stop: threading.Event) -> bool:
    """Add an item once there is room; return whether there was before `stop`."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
            return True
        except queue.Full:
            continue
    return False


def _grouped(rows: Iterator[Loaded], size: int) -> Iterator[list[Loaded]]:
    batch: list[Loaded] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
