"""Samples system metrics during a run: processor, memory, disk and the run's own GPUs."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psutil

from gpu_pools.placement.probe import Probe
from tasks.base.errors import GpuError
from tasks.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

_MIB = 2**20
_GIB = 2**30
_KEY = "system/cpu_percent"  # in every sample; its steps say how many there were before a restart


class SystemSampler:
    """Logs a sample at once and then every so many seconds, while the `with` block runs.

    It ends before the tracker does: `with Tracker.open(...) as tracker, SystemSampler(tracker, ...)`.
    """

    def __init__(
        self, tracker: Tracker, probe: Probe | None = None, gpu_uuids: Sequence[str] = (), every_s: float = 10.0
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            tracker: gets the samples, numbered on from those of the attempts before a restart.
            probe: reads the GPUs; needed with gpu_uuids.
            gpu_uuids: the run's own GPUs; none for the CPU.
            every_s: seconds between two samples.
        """
        self._tracker = tracker
        self._gpu: Callable[[], dict[str, float | None]] = dict
        if probe is not None and gpu_uuids:
            self._gpu = lambda: gpu_samples(probe, gpu_uuids)
        self._every_s = every_s
        self._stop = threading.Event()
        self._gpu_failed = False
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)

    def __enter__(self) -> Self:
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; no sample follows."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        step = max(self._tracker.logged_steps(_KEY), default=-1) + 1
        psutil.cpu_percent()  # the first call only starts the measurement
        pause = min(1.0, self._every_s)
        while not self._stop.wait(pause):
            self._tracker.metrics({**host_sample(self._tracker.folder), **self._gpu_metrics()}, step)
            step += 1
            pause = self._every_s

    def _gpu_metrics(self) -> dict[str, float | None]:
        try:
            found = self._gpu()
        except GpuError as exc:
            # A GPU that does not answer for a moment must not end the samples, nor the run; one line says so.
            if not self._gpu_failed:
                logger.warning("no metrics of the GPU for now: %s", exc)
            self._gpu_failed = True
            return {}
        self._gpu_failed = False
        return found


def host_sample(folder: Path) -> dict[str, float | None]:
    """Return metrics of the host and of this process with all its children.

    Args:
        folder: on the disk whose free space is told.
    """
    return {
        _KEY: psutil.cpu_percent(),
        "system/memory_mib": tree_memory_mib(),
        "system/host_memory_mib": psutil.virtual_memory().used / _MIB,
        "system/disk_free_gib": psutil.disk_usage(str(folder)).free / _GIB,
    }


def tree_memory_mib() -> float:
    """Return the resident memory of this process and all below it."""
    own = psutil.Process()
    total = own.memory_info().rss
    for child in own.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:  # ended between listing and reading
            continue
    return total / _MIB


def gpu_samples(probe: Probe, uuids: Sequence[str]) -> dict[str, float | None]:
    """Return metrics of the GPUs of a run; of several, each has its number in their order: system/gpu1_power_w."""
    names = ["gpu"] if len(uuids) == 1 else [f"gpu{number}" for number in range(len(uuids))]
    samples = (gpu_sample(probe, uuid, f"system/{name}") for uuid, name in zip(uuids, names, strict=True))
    return {key: value for sample in samples for key, value in sample.items()}


def gpu_sample(probe: Probe, uuid: str, prefix: str = "system/gpu") -> dict[str, float | None]:
    """Return metrics of one GPU, their keys beginning with a prefix; what it cannot tell is None."""
    gpu = probe.device(uuid)
    return {
        f"{prefix}_utilisation_percent": gpu.utilisation_percent,
        f"{prefix}_memory_mib": gpu.memory_used_mib,
        f"{prefix}_power_w": gpu.power_w,
        f"{prefix}_temperature_c": gpu.temperature_c,
    }
