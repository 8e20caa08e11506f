"""Checks a device's memory: its copy rate, and a batch that does not fit."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.classification.models import build_model
from tasks.classification.params import TrainParams
from tasks.classification.training.events import EpochMetrics
from tasks.classification.training.train import Trainer
from tasks.training.batches import Batches
from tasks.trial.plain import N_CLASSES, wait
from tasks.trial.report import CheckResult, Place, checked

GOOD_RATE = {"cuda": 3.0, "cpu": 0.5}
"""GiB/s. A GPU that trains on 5,000 images of 224 px a second takes in 0.7, and computes meanwhile; PCIe 3 with all
its 16 lanes gives 11. A CPU that shares its memory still copies more than this."""

_COPIED = 256 * 2**20  # bytes
_N_COPIES = 4
_SIDE, _BATCH = {"cuda": 224, "cpu": 32}, {"cuda": 64, "cpu": 16}


def copy_rate(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Measure page-locked memory to the GPU; on a CPU memory to memory."""
    device = torch.device(where.kind)
    source = torch.zeros(_COPIED, dtype=torch.uint8, pin_memory=where.is_gpu)
    target = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target.copy_(source, non_blocking=True)
    wait(device)
    begun = time.perf_counter()
    for _ in range(_N_COPIES):
        target.copy_(source, non_blocking=True)
    wait(device)
    yield rate_row(where, _N_COPIES * _COPIED / 2**30 / (time.perf_counter() - begun))


def rate_row(where: Place, rate: float) -> CheckResult:
    """Return the row of a rate, GiB/s."""
    need = GOOD_RATE[where.kind]
    what = "page-locked memory to the GPU" if where.is_gpu else "memory to memory"
    todo = (
        "the slot gives the card few lanes (`nvidia-smi -q -d PERFORMANCE,PCIE`), or another process copies"
        if where.is_gpu
        else "something else uses this machine's memory (`top`)"
    )
    return checked("copy rate", rate >= need, f"{rate:.1f} GiB/s, {what} (at least {need:g})", todo, gib_s=rate)


def halved_batch(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Train an epoch on batches that the memory does not hold: they must be cut, and the training go on."""
    batch = _BATCH[where.kind]
    if where.is_gpu:
        room = 1.5 * _reserved_by(where, batch // 4)
        with capped(room):
            metrics, images = train_epoch(where, batch, lambda model: model)
    else:
        metrics, images = train_epoch(where, batch, lambda model: Limited(model, batch // 3))
    yield halved_row(where, batch, metrics, images)


def halved_row(where: Place, batch: int, metrics: EpochMetrics, images: int) -> CheckResult:
    """Return the row of an epoch whose batches did not fit; `images` it had, each once."""
    cut = [note for note in metrics.notes if note.startswith("out of memory at")]
    good = bool(cut) and math.isfinite(metrics.train_loss) and images == 3 * batch
    how = "of a GPU whose memory is capped" if where.is_gpu else "of a CPU, whose memory has no end: the error is made"
    pieces = 2 ** len(cut)
    figure = f"3 batches of {batch} ran in {pieces} pieces each, loss {metrics.train_loss:.3f}, {how}"
    if not cut:
        figure = f"a batch of {batch} was not cut though it should not fit, {how}"
    todo = "take a smaller batch_size where memory is short, and report this with what `--json` says"
    return checked("batch too large", good, figure, todo, pieces=pieces, loss=metrics.train_loss, images=images)


def train_epoch(where: Place, batch: int, wrap: Callable[[nn.Module], nn.Module]) -> tuple[EpochMetrics, int]:
    """Return the figures of an epoch of three batches of ResNet-18, and how many images were counted.

    Args:
        where: the device.
        batch: images.
        wrap: what becomes of the model before it is trained.
    """
    side, device = _SIDE[where.kind], torch.device(where.kind)
    pixels = np.random.default_rng(0).integers(0, 256, (3 * batch, side, side, 3), dtype=np.uint8)
    params = TrainParams(pretrained=False, batch_size=batch, image_size=side, num_epochs=1, device=where.kind)
    labels = [index % N_CLASSES for index in range(len(pixels))]
    train = Batches(lambda index: pixels[index], labels, batch, pin=where.is_gpu, n_workers=2)
    val = Batches(lambda index: pixels[index], labels[:4], 4, n_workers=1)
    torch.manual_seed(0)
    trainer = Trainer(wrap(build_model("resnet18", N_CLASSES, side)), N_CLASSES, params, device, "fp32")
    images = 0
    for event in trainer.run(train, val):
        if isinstance(event, EpochMetrics):
            return event, images
        images = int(trainer._sums[2])
    raise AssertionError("a training of one epoch has its figures")


class Limited(nn.Module):
    """A model that runs out of memory on more than `room` images in training, as on a GPU."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room

    def forward(self, images: Tensor) -> Tensor:
        """Return what the model does."""
        if self.training and len(images) > self.room:
            raise torch.OutOfMemoryError(f"{len(images)} images, as if the memory held {self.room}")
        answers: Tensor = self.inner(images)
        return answers


def _reserved_by(where: Place, batch: int) -> int:
    """Return the bytes of the GPU that torch holds at most while it trains on batches that small."""
    _give_back()
    torch.cuda.reset_peak_memory_stats()
    train_epoch(where, batch, lambda model: model)
    return torch.cuda.max_memory_reserved()


@contextmanager
def capped(n_bytes: float) -> Iterator[None]:
    """Let this process have no more of the GPU's memory for the block."""
    _give_back()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, n_bytes / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _give_back() -> None:
    gc.collect()
    torch.cuda.empty_cache()
