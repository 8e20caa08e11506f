"""Keeps runs off a shared GPU whose free memory they are expected to exceed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gpu_pools.names import whose
from gpu_pools.placement.order import Waiting, rank
from gpu_pools.placement.place import DeviceState, Rule
from gpu_pools.placement.probe import Probe
from gpu_pools.sharing.memory_model import MemoryNeed, memory_text
from gpu_pools.slots.slot_files import Holder

SAFETY = 1.1
"""A forecast that holds for the mean falls short in half of the cases, and fragmented memory cannot all be used."""

PATIENCE_S = 1800.0
"""After so long a run that does not fit beside others has room made for it."""

_SHOWN = 3  # holders named in a sentence


class MemoryRules:
    """The rule of memory; the runs and the holders bring their forecasts with them.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def rule(self, waiting: Sequence[Waiting]) -> Rule:
        """Return the rule, with the run for which room is made: the first of those that have waited for long."""
        now = self._clock()
        long = (run for run in waiting if run.memory_mib is not None and now - run.since >= PATIENCE_S)
        first = min(long, key=lambda run: rank(run, now), default=None)
        return MemoryRule(first, now)


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """A run waits where its forecast is more than what is free beside others on a GPU.

    On a GPU that nobody has it starts whatever is forecast: that may be wrong, and a training halves its batches where
    memory runs out. A run of which nothing is known starts, too.

    A large run would wait for ever where small ones come and go. After `PATIENCE_S` those that would go after it do
    not start where it would have a slot, until it fits.

    Args:
        first: the run for which room is made; None: there is none.
        now: Unix seconds.
    """

    everywhere: ClassVar[bool] = False
    first: Waiting | None
    now: float

    def against(self, run: Waiting, device: DeviceState, starting: Mapping[str, Sequence[Waiting]]) -> str | None:
        """Return "needs about 14 GB (measured in 3 runs), cuda:0 has 8.1 GB free: X of anna uses 60 GB", or None."""
        beginning = starting.get(device.uuid, ())
        if device.memory_total_mib is None or not (device.holders or beginning):
            return None
        lacking = _lacking(run, device, beginning)
        first = self.first
        if lacking or first is None or rank(first, self.now) >= rank(run, self.now):
            return lacking
        if not _has_slot(first, device) or _lacking(first, device, beginning) is None:
            return None
        return (
            f"{device.tag} is kept for {whose(first.run_name, first.owner)}, which {_needs(first)} and waits for room"
        )


def too_large(holder: Holder, probe: Probe) -> str:
    """Return what there is to say of a run that is expected to take more than all of its GPU; empty: nothing.

    Raises:
        GpuError: the GPU does not answer.
    """
    if holder.memory_mib is None:
        return ""
    device = probe.device(holder.uuid)
    if holder.memory_mib <= device.memory_total_mib:
        return ""
    need = MemoryNeed(holder.memory_mib, holder.memory_source).text()
    return (
        f"{device.tag} has {memory_text(device.memory_total_mib)} and the run needs {need}; it starts all the same, as "
        "that may be wrong, and trainings halve their batches where memory runs out"
    )


def _lacking(run: Waiting, device: DeviceState, beginning: Sequence[Waiting]) -> str | None:
    """Return why a run does not fit beside those that a device has, or is about to have; None: it does."""
    others = [holder for holder in device.holders if holder.run_id != run.run_id]
    free = (device.memory_total_mib or 0) - taken_mib(device, others, beginning)
    if run.memory_mib is None or not (others or beginning) or SAFETY * run.memory_mib <= free:
        return None
    who = [(_use(holder, device), whose(holder.run_name, holder.owner)) for holder in others]
    who += [(other.memory_mib or 0, whose(other.run_name, other.owner)) for other in beginning]
    named = [f"{name} uses {memory_text(mib)}" for mib, name in sorted(who, reverse=True)[:_SHOWN] if mib]
    text = f"{_needs(run)}, {device.tag} has {memory_text(max(0, free))} free"
    return f"{text}: {' and '.join(named)}" if named else text


def _needs(run: Waiting) -> str:
    return f"needs {MemoryNeed(run.memory_mib or 0, run.memory_source).text()}"


def _has_slot(run: Waiting, device: DeviceState) -> bool:
    """Return whether a device would take a run now, were there memory enough."""
    queue = run.queue
    mine = device.tag == queue.device if queue.pinned else device.tag.startswith("cuda:")
    held = sum(holder.kind == queue.kind for holder in device.holders)
    return mine and queue.name not in device.paused and held < device.limits.get(queue.kind, 0)


def taken_mib(device: DeviceState, holders: Sequence[Holder], starting: Sequence[Waiting]) -> int:
    """Return how much of a GPU is taken, MiB: by each run what it uses, or will use by its forecast where that is more.

    A run that has just begun has allocated nothing yet. What no run has, such as a foreign process, counts as it is.
    Where nobody can tell which run has what, as in a container, all forecasts together are held against all use.
    """
    seen = [(device.memory_by_run[h.run_id], h.memory_mib or 0) for h in holders if h.run_id in device.memory_by_run]
    unseen = sum(h.memory_mib or 0 for h in holders if h.run_id not in device.memory_by_run)
    rest = device.memory_used_mib - sum(used for used, _ in seen)
    known = sum(max(used, expected) for used, expected in seen)
    return known + max(rest, unseen) + sum(run.memory_mib or 0 for run in starting)


def _use(holder: Holder, device: DeviceState) -> int:
    return max(device.memory_by_run.get(holder.run_id, 0), holder.memory_mib or 0)
