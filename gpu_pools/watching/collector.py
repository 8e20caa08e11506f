"""Gives Prometheus what a worker knows, and what the host's locks, driver and disk say at the moment."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gpu_pools.placement.devices import Device
from gpu_pools.placement.disk import read_disk
from gpu_pools.placement.probe import Probe
from gpu_pools.placement.queues import Kind
from gpu_pools.slots.lease import Holder, holders
from gpu_pools.watching.backlog import Backlog
from gpu_pools.watching.families import GAPS, GAUGES, GPU_INFO
from gpu_pools.watching.gaps import EDGES, Tally
from gpu_pools.watching.state import SlotLimit, WaitingQueue, WorkerState
from tasks.base.errors import GpuError, TrainyardError

logger = logging.getLogger("trainyard.worker")

T = TypeVar("T")

_MIB = 2**20

Value = tuple[str, tuple[str, ...], float]
"""Name of a gauge, the values of its labels, and its own."""


class YardCollector(Collector):
    """Collects at each scrape, in the scrape's thread: the worker's turn waits for none of it.

    A part that cannot be read is missing, and `trainyard_reading_up` of it is 0; what a device does not tell is
    missing, too, and never 0.

    Args:
        state: returns what the worker knew at the end of its last turn, None before that.
        backlog: returns what MLflow has not got yet, None where that is not known.
        probe: of the GPUs; one of its own.
        clock: Unix seconds.
    """

    def __init__(
        self,
        state: Callable[[], WorkerState | None],
        backlog: Callable[[], Backlog | None],
        probe: Probe,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._backlog, self._probe, self._clock = state, backlog, probe, clock
        self._faults: dict[str, str] = {}

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: what there is, is known at a scrape alone."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics of now; none before the worker's first turn."""
        state = self._state()
        if state is None:
            return
        now = self._clock()
        held = self._part("leases", holders)
        gpus = {tag: self._gpu(uuid) for tag, uuid in state.gpus.items()}
        lost = {tag for tag, gpu in gpus.items() if gpu is None}
        values = [*_worker(state), *_devices(gpus)]
        if held is not None:
            free = _free(state, held, lost)
            values += [*_slots(state, held, free), *_leases(held, _names(state), now)]
            values += [value for queue in state.queues or () for value in _queue_slots(queue, state, free)]
        values += [value for queue in state.queues or () for value in _queue(queue, now)]
        values += self._part("disk", _disk) or []
        if backlog := self._backlog():
            values += _backlog(backlog)
        parts = {"leases", "disk"}
        values += [("trainyard_reading_up", (part,), float(part not in self._faults)) for part in sorted(parts)]
        values.append(("trainyard_reading_up", ("journals",), float(backlog is not None)))
        yield from _gauges(values, state.host)
        yield _info(gpus, state.host)
        yield _histogram(state)

    def _part(self, name: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns, None where that cannot be read now, which is said once."""
        try:
            found = read()
        except (TrainyardError, OSError) as exc:
            if self._faults.get(name) != str(exc):
                logger.error("metrics lack the %s: %s", name, exc)
            self._faults[name] = str(exc)
            return None
        self._faults.pop(name, None)
        return found

    def _gpu(self, uuid: str) -> Device | None:
        try:
            return self._probe.device(uuid)
        except GpuError:  # said by the worker, which takes no runs for it
            return None


Free = Mapping[tuple[str, Kind], int]
"""(device, kind) -> slots."""


def _worker(state: WorkerState) -> Iterator[Value]:
    worker = (state.worker,)
    yield "trainyard_worker_last_turn_timestamp_seconds", worker, state.at
    yield "trainyard_worker_draining", worker, state.draining
    yield "trainyard_worker_runs", worker, state.n_runs
    yield "trainyard_prefect_up", worker, state.answered


def _devices(gpus: Mapping[str, Device | None]) -> Iterator[Value]:
    for tag, gpu in gpus.items():
        yield "trainyard_gpu_up", (tag,), gpu is not None
        if gpu is not None:
            told = {
                "memory_used_bytes": gpu.memory_used_mib * _MIB,
                "memory_total_bytes": gpu.memory_total_mib * _MIB,
                "utilisation_ratio": None if gpu.utilisation_percent is None else gpu.utilisation_percent / 100,
                "temperature_celsius": gpu.temperature_c,
                "power_watts": gpu.power_w,
            }
            yield from ((f"trainyard_gpu_{name}", (tag,), value) for name, value in told.items() if value is not None)


def _count(held: Sequence[Holder], slot: SlotLimit) -> int:
    return sum((holder.uuid, holder.kind) == (slot.uuid, slot.kind) for holder in held)


def _free(state: WorkerState, held: Sequence[Holder], lost: Collection[str]) -> Free:
    return {
        (slot.device, slot.kind): 0 if slot.paused or slot.device in lost else max(0, slot.limit - _count(held, slot))
        for slot in state.slots
    }


def _slots(state: WorkerState, held: Sequence[Holder], free: Free) -> Iterator[Value]:
    for slot in state.slots:
        labels = (slot.device, slot.kind)
        yield "trainyard_slots", labels, slot.limit
        yield "trainyard_slots_held", labels, _count(held, slot)
        yield "trainyard_slots_free", labels, free[slot.device, slot.kind]


def _names(state: WorkerState) -> dict[str, str]:
    """Return uuid -> device, for slots whose record cannot be read."""
    return {uuid: tag for tag, uuid in state.gpus.items()}


def _leases(held: Sequence[Holder], names: Mapping[str, str], now: float) -> Iterator[Value]:
    for run in held:
        slot = (names.get(run.uuid, run.device), run.kind, str(run.number), run.run_id, run.run_name)
        if run.since:  # else its record cannot be read
            yield "trainyard_lease_age_seconds", (*slot, run.owner), max(0.0, now - run.since)
        if (far := run.progress) is not None:
            labels = (*slot, far.unit)
            left = far.n_epochs - far.epoch
            yield "trainyard_run_epochs_done", labels, far.epoch
            yield "trainyard_run_epochs_planned", labels, far.n_epochs
            if far.remaining_s is not None:
                yield "trainyard_run_remaining_seconds", labels, max(0.0, far.remaining_s - (now - far.updated))
            if far.remaining_s is not None and left > 0:
                yield "trainyard_run_epoch_seconds", labels, far.remaining_s / left


def _queue(waiting: WaitingQueue, now: float) -> Iterator[Value]:
    labels = (waiting.queue.name, waiting.queue.kind)
    yield "trainyard_queue_runs", labels, waiting.n_runs
    if waiting.oldest is not None:
        yield "trainyard_queue_oldest_age_seconds", labels, max(0.0, now - waiting.oldest)


def _queue_slots(waiting: WaitingQueue, state: WorkerState, free: Free) -> Iterator[Value]:
    queue = waiting.queue
    if queue.host in (None, state.host):
        devices = [queue.device] if queue.pinned else list(state.gpus)
        n_free = 0 if waiting.paused else sum(free.get((device, queue.kind), 0) for device in devices)
        yield "trainyard_queue_free_slots", (queue.name, queue.kind), n_free


def _disk() -> list[Value]:
    disk = read_disk()
    return [("trainyard_disk_free_bytes", (), disk.free), ("trainyard_disk_least_free_bytes", (), disk.least)]


def _backlog(backlog: Backlog) -> Iterator[Value]:
    yield "trainyard_journal_backlog_rows", (), backlog.n_rows
    yield "trainyard_journal_backlog_runs", (), backlog.n_runs


def _gauges(values: Sequence[Value], host: str) -> Iterator[Metric]:
    made = {name: GaugeMetricFamily(name, one.text, labels=("host", *one.labels)) for name, one in GAUGES.items()}
    for name, labels, value in values:
        made[name].add_metric((host, *labels), float(value))
    yield from (family for family in made.values() if family.samples)


def _info(gpus: Mapping[str, Device | None], host: str) -> Metric:
    info = GaugeMetricFamily(GPU_INFO, "1; its labels say which GPU it is", labels=("host", "device", "uuid", "model"))
    for tag, gpu in gpus.items():
        if gpu is not None:
            info.add_metric((host, tag, gpu.uuid, gpu.name), 1)
    return info


def _histogram(state: WorkerState) -> Metric:
    text = "From when a slot was free and the run that took it next was due, to that run's start"
    gaps = HistogramMetricFamily(GAPS, text, labels=("host", "worker", "device", "kind"))
    # Those that are still empty, too: what appears with its first value has no rate.
    tallies = {(slot.device, slot.kind): Tally() for slot in state.slots} | dict(state.gaps)
    for (device, kind), tally in tallies.items():
        ends = [*(str(edge) for edge in EDGES), "+Inf"]
        buckets = list(zip(ends, map(float, tally.up_to), strict=True))
        gaps.add_metric((state.host, state.worker, device, kind), buckets, tally.total_s)
    return gaps
