"""Measures how a run uses its slot: time held and to the first batch, GPU's load, energy, memory."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from prefect.runtime import flow_run

from gpu_pools.placement.probe import GpuSample, Probe, belongs, get_probe
from gpu_pools.prefect_client import PoolClient
from gpu_pools.slots.energy import EnergyMeter
from gpu_pools.slots.lease import holders, own_holders
from gpu_pools.slots.slot_files import Holder
from gpu_pools.slots.use import NO_USE, SlotUse
from tasks.base.errors import GpuError, StorageError

EVERY_S = 0.5
_MIB = 2**20
logger = logging.getLogger("trainyard")


class SlotMeter:
    """Looks at a run's GPUs twice a second while the `with` block runs.

    Args:
        holders: the run, with the time at which it took its slots: one for each of its devices.
        probe: reads the GPUs.
        every_s: seconds between two looks.
        earlier: what the run's attempts before this one have made of their slots.
    """

    def __init__(
        self, holders: Sequence[Holder], probe: Probe, every_s: float = EVERY_S, earlier: SlotUse = NO_USE
    ) -> None:
        self._since, self._probe, self._every_s, self._earlier = holders[0].since, probe, every_s, earlier
        self._energy = {holder.uuid: EnergyMeter() for holder in holders if holder.uuid != "cpu"}
        self._first_batch: float | None = None
        self._sum, self._n = 0.0, 0
        self._peak_mib: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="slot-meter", daemon=True)

    def __enter__(self) -> "SlotMeter":
        """Begin to look."""
        if self._energy:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def batch_done(self) -> None:
        """Note the end of a batch; the first one counts."""
        if self._first_batch is None:
            self._first_batch = time.time()

    def use(self) -> SlotUse:
        """Return what has become of the slot so far."""
        since, first = self._since, self._first_batch
        busy = self._sum / self._n if self._n else None
        to_batch = None if first is None else first - since
        known = [meter.wh for meter in self._energy.values() if meter.wh is not None]
        use = SlotUse(time.time() - since, to_batch, busy, sum(known) if known else None, self._peak_mib)
        return use.after(self._earlier)

    def _look(self) -> None:
        self._take_all()
        while not self._stop.wait(self._every_s):
            self._take_all()
        self._take_all()

    def _take_all(self) -> None:
        for uuid, energy in self._energy.items():
            self._take(uuid, energy)

    def _take(self, uuid: str, energy: EnergyMeter) -> None:
        try:
            sample = self._probe.sample(uuid)
            n_sharing = len(holders(uuid))
        except (GpuError, StorageError):  # is skipped; the system's samples report that the GPU does not answer
            return
        if sample.utilisation_percent is not None:
            self._sum, self._n = self._sum + sample.utilisation_percent / 100, self._n + 1
        energy.add(time.monotonic(), sample, n_sharing)
        if (own := own_memory_mib(sample)) is not None:
            self._peak_mib = max(own, self._peak_mib or 0.0)


def own_memory_mib(sample: GpuSample) -> float | None:
    """Return the device memory of this process and all below it; None: it has none, or nobody can tell.

    PyTorch's own count goes before where it is more: between two samples, and in a container, where NVIDIA's driver
    has other numbers for the processes.
    """
    own = [mib for pid, mib in sample.memory_mib.items() if mib is not None and belongs(pid, {os.getpid()})]
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    reserved = cuda.max_memory_reserved() / _MIB if cuda is not None and cuda.is_initialized() else 0.0
    return max(float(sum(own)), reserved) or None


_meters: list[SlotMeter] = []  # of this process's run; one at most


@contextmanager
def metered() -> Iterator[None]:
    """Measure what the running flow makes of the slot that this process holds; the metrics go to its labels.

    Within another such block, and for a pipeline, which only waits on its slot, nothing is done.
    """
    slots = own_holders()
    if _meters or not slots or slots[0].kind == "pipeline":
        yield
        return
    with SlotMeter(slots, get_probe(), earlier=_told_before(slots[0].run_id)) as meter:
        _meters.append(meter)
        try:
            yield
        finally:
            _meters.pop()
            _tell(slots[0].run_id, meter.use())


def batch_done() -> None:
    """Say from inside a run that a batch is done."""
    for meter in _meters:
        meter.batch_done()


def slot_use() -> SlotUse | None:
    """Return what the run of this process has made of its slot so far; None: it holds none."""
    return _meters[0].use() if _meters else None


def _told_before(run_id: str) -> SlotUse:
    """Return what earlier attempts at a run have told of their slots."""
    if flow_run.run_count <= 1:
        return NO_USE
    try:
        return SlotUse.of(PoolClient().labels(run_id))
    except httpx.HTTPError as exc:
        logger.warning("how the attempts before used their slots is not counted: %s", exc)
        return NO_USE


def _tell(run_id: str, use: SlotUse) -> None:
    try:
        PoolClient().set_labels(run_id, use.labels())
    except httpx.HTTPError as exc:  # no reason to fail a run that is done
        logger.warning("Prefect was not told how the slot was used: %s", exc)
