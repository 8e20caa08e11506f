"""Measures how a run uses its slot: seconds held, time to the first batch, how busy the GPU is."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from gpu_pools.placement.probe import Probe, get_probe
from gpu_pools.prefect_client import PoolClient
from gpu_pools.slots.lease import own_holder
from gpu_pools.slots.slot_files import Holder
from gpu_pools.slots.use import SlotUse
from tasks.base.errors import GpuError

EVERY_S = 0.5
logger = logging.getLogger("trainyard")


class SlotMeter:
    """Looks at a run's GPU twice a second while the `with` block runs.

    Args:
        holder: the run, with the time at which it took the slot.
        probe: reads the GPU.
        every_s: seconds between two looks.
    """

    def __init__(self, holder: Holder, probe: Probe, every_s: float = EVERY_S) -> None:
        self._holder, self._probe, self._every_s = holder, probe, every_s
        self._first_batch: float | None = None
        self._sum, self._n = 0.0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="slot-meter", daemon=True)

    def __enter__(self) -> "SlotMeter":
        """Begin to look."""
        if self._holder.uuid != "cpu":
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
        since, first = self._holder.since, self._first_batch
        busy = self._sum / self._n if self._n else None
        return SlotUse(time.time() - since, None if first is None else first - since, busy)

    def _look(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                percent = self._probe.utilisation_percent(self._holder.uuid)
            except GpuError:  # this sample is skipped; the system's samples report that the GPU does not answer
                continue
            if percent is not None:
                self._sum, self._n = self._sum + percent / 100, self._n + 1


_meters: list[SlotMeter] = []  # of this process's run; one at most


@contextmanager
def metered() -> Iterator[None]:
    """Measure what the running flow makes of the slot that this process holds; the metrics go to its labels.

    Within another such block, and for a pipeline, which only waits on its slot, nothing is done.
    """
    holder = own_holder()
    if _meters or holder is None or holder.kind == "pipeline":
        yield
        return
    with SlotMeter(holder, get_probe()) as meter:
        _meters.append(meter)
        try:
            yield
        finally:
            _meters.pop()
            _tell(holder.run_id, meter.use())


def batch_done() -> None:
    """Say from inside a run that a batch is done."""
    for meter in _meters:
        meter.batch_done()


def slot_use() -> SlotUse | None:
    """Return what the run of this process has made of its slot so far; None: it holds none."""
    return _meters[0].use() if _meters else None


def _tell(run_id: str, use: SlotUse) -> None:
    try:
        PoolClient().set_labels(run_id, use.labels())
    except httpx.HTTPError as exc:  # no reason to fail a run that is done
        logger.warning("Prefect was not told how the slot was used: %s", exc)
