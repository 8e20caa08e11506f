"""Compares the speed of our training with a plain loop, in turn, in one process."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import torch

from gpu_pools.placement.probe import get_probe
from tasks.classification.models import build_model
from tasks.classification.params import Architecture, TrainParams
from tasks.classification.training.train import Trainer
from tasks.training.batches import Batches
from tasks.training.precision import Precision
from tasks.trial.plain import N_CLASSES, PlainLoop, wait
from tasks.trial.report import CheckResult, Place, checked

GOOD_RATIO = {"cuda": 0.85, "cpu": 0.7}
"""Of images/s, ours by the plain loop's: loading, figures and copies may take no more. On a CPU they share its cores
with the arithmetic, and so does whatever else wakes."""

_WAITING = 0.1  # share of the time: from there on it is the data that is waited for
_SAMPLE_S = 0.1
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class TrainingSize:
    """How much is trained: the steps of each side, in so many rounds."""

    batch: int
    side: int  # pixels
    steps: int
    rounds: int


SIZES = {
    ("resnet18", "cuda"): TrainingSize(256, 224, 60, 3),
    ("vit_b_16", "cuda"): TrainingSize(128, 224, 60, 3),
    ("resnet18", "cpu"): TrainingSize(8, 64, 12, 3),
    ("vit_b_16", "cpu"): TrainingSize(4, 32, 3, 3),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured; memory in bytes of the GPU, None on a CPU."""

    ours: float  # images/s
    plain: float
    ratio: float  # median over the rounds
    busy: float | None  # share of the device while ours ran, in [0, 1]
    waiting: float  # share of our time that was waited for data
    peak: int | None
    plain_peak: int | None


def resnet18(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Hold a training of ResNet-18 to a plain loop."""
    yield _row(where, "resnet18")


def vit_b_16(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Hold a training of ViT-B/16 to a plain loop."""
    yield _row(where, "vit_b_16")


def _row(where: Place, arch: Architecture) -> CheckResult:
    size, device = SIZES[arch, where.kind], torch.device(where.kind)
    precision = precision_of(device)
    return speed_row(where, arch, size, precision, measure(where, arch, size, precision))


def precision_of(device: torch.device) -> Precision:
    """Return what a trial trains in: what a GPU is made for; on a CPU fp32, which every one has."""
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def measure(where: Place, arch: Architecture, size: TrainingSize, precision: Precision) -> Speed:
    """Return what both sides come to."""
    device, n = torch.device(where.kind), size.steps // size.rounds
    warm, before = min(2, n), _allocated(device)
    plain = PlainLoop(arch, size.batch, size.side, device, precision)
    plain.run(warm)
    between = _allocated(device)
    ours = OurLoop(arch, size, device, precision)
    ours.run(warm)
    after = _allocated(device)
    taken: dict[str, list[tuple[float, int]]] = {"plain": [], "ours": []}
    with Utilization(where) as busy:
        for _ in range(size.rounds):
            taken["plain"].append(_with_peak(device, partial(plain.run, n)))
            ours.use_up()
            with busy.counting():
                taken["ours"].append(_with_peak(device, partial(ours.run, n)))
    ours.close()
    seconds = {name: [each for each, _ in rounds] for name, rounds in taken.items()}
    peaks = {name: max(peak for _, peak in rounds) for name, rounds in taken.items()}
    images = size.rounds * n * size.batch
    return Speed(
        ours=images / sum(seconds["ours"]),
        plain=images / sum(seconds["plain"]),
        ratio=statistics.median(one / other for one, other in zip(seconds["plain"], seconds["ours"], strict=True)),
        busy=busy.share,
        waiting=ours.waiting,
        # Both stay in memory all the time, so the memory of the other one is subtracted.
        peak=peaks["ours"] - between if where.is_gpu else None,
        plain_peak=peaks["plain"] - before - (after - between) if where.is_gpu else None,
    )


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _with_peak(device: torch.device, call: Callable[[], float]) -> tuple[float, int]:
    """Return what the call returns, and the most bytes of the GPU that were in use meanwhile."""
    if device.type != "cuda":
        return call(), 0
    torch.cuda.reset_peak_memory_stats(device)
    return call(), torch.cuda.max_memory_allocated(device)


class OurLoop:
    """Our training on images that lie decoded in memory, as they do once the cache is warm.

    Args:
        arch: of the model.
        size: how much; the epoch is longer than all of it.
        device: to train on.
        precision: of the forward pass.
    """

    def __init__(self, arch: Architecture, size: TrainingSize, device: torch.device, precision: Precision) -> None:
        n_workers = len(os.sched_getaffinity(0)) if device.type == "cuda" else 1
        # Batches that may lie ready and so come for nothing; small ones for a CPU count for nothing anyway.
        self._loaded = n_workers + 1 if device.type == "cuda" else 0
        n = size.batch * (3 + size.steps + self._loaded * (size.rounds + 1))
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (min(n, 64), size.side, size.side, 3), dtype=np.uint8)
        labels = random.integers(0, N_CLASSES, n).tolist()
        params = TrainParams(
            model=arch,
            pretrained=False,
            batch_size=size.batch,
            image_size=size.side,
            num_epochs=1,
            device=device.type,
        )
        batches = Batches(
            lambda index: pixels[index % len(pixels)],
            labels,
            size.batch,
            shuffle=True,
            n_workers=n_workers,
            pin=device.type == "cuda",
        )
        self._device, self._spent = device, 0.0
        self._trainer = Trainer(build_model(arch, N_CLASSES, size.side), N_CLASSES, params, device, precision)
        self._events = self._trainer.run(batches, batches)

    def run(self, steps: int) -> float:
        """Take steps; return the seconds, the GPU's work included."""
        wait(self._device)
        begun = time.perf_counter()
        for _ in islice(self._events, steps):
            pass
        wait(self._device)
        seconds = time.perf_counter() - begun
        self._spent += seconds
        return seconds

    def use_up(self) -> None:
        """Take the steps whose batches were made while the other loop ran."""
        self.run(self._loaded)

    @property
    def waiting(self) -> float:
        """Return the share of its own time that was waited for data, in [0, 1]."""
        return self._trainer._pace.waiting / self._spent

    def close(self) -> None:
        """End the threads that load."""
        self._events.close()  # type: ignore[attr-defined]


class Utilization:
    """How busy the device is in the blocks that count: a GPU by NVML, ten times a second; a CPU by its own clock."""

    def __init__(self, where: Place) -> None:
        self._where = where
        self._samples: list[float] = []
        self._counts, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self._where.is_gpu:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._where.is_gpu:
            self._thread.join()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the block."""
        self._counts.set()
        begun, used = time.perf_counter(), sum(psutil.Process().cpu_times()[:2])
        yield
        self._counts.clear()
        if not self._where.is_gpu:
            spent = sum(psutil.Process().cpu_times()[:2]) - used
            cores = len(os.sched_getaffinity(0))
            self._samples.append(min(1.0, spent / cores / (time.perf_counter() - begun)))

    @property
    def share(self) -> float | None:
        """Return the mean, in [0, 1]; None: the device does not tell."""
        return statistics.fmean(self._samples) if self._samples else None

    def _sample(self) -> None:
        probe = get_probe()
        while not self._ended.wait(_SAMPLE_S):
            percent = probe.device(self._where.uuid).utilisation_percent
            if self._counts.is_set() and percent is not None:
                self._samples.append(percent / 100)


def speed_row(where: Place, arch: str, size: TrainingSize, precision: Precision, speed: Speed) -> CheckResult:
    """Return the row of a measurement."""
    need = GOOD_RATIO[where.kind]
    parts = [
        f"{speed.ratio:.2f} of a plain loop (at least {need:g}): {speed.ours:,.0f} against {speed.plain:,.0f} images/s",
        f"{size.steps} steps each of batch {size.batch} at {size.side} px in {precision}",
    ]
    if speed.busy is not None:
        parts.append(f"{where.kind.upper().replace('CUDA', 'GPU')} {100 * speed.busy:.0f} % busy")
    if speed.peak is not None and speed.plain_peak is not None:
        parts.append(f"at most {speed.peak / _GIB:.2f} GiB (plain {speed.plain_peak / _GIB:.2f})")
    if where.kind == "cpu":
        parts.append("small, as this is a CPU")
    todo = "something else uses this machine (`top`, `yard devices`): end it and try again"
    if speed.waiting > _WAITING:
        cores = len(os.sched_getaffinity(0))
        todo = f"{100 * speed.waiting:.0f} % of the time goes into waiting for images: give it more than {cores} cores"
    values = {"ratio": speed.ratio, "images_s": speed.ours, "plain_images_s": speed.plain, "busy": speed.busy}
    memory = {"peak_bytes": speed.peak, "plain_peak_bytes": speed.plain_peak, "data_wait_share": speed.waiting}
    return checked(arch, speed.ratio >= need, "; ".join(parts), todo, **values, **memory)
