"""Decides which waiting runs start where, and why each other one waits; a pure function."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gpu_pools.names import NOBODY, whose
from gpu_pools.placement.disk import Disk
from gpu_pools.placement.order import Lines, Waiting, rank
from gpu_pools.placement.probe import GpuProcess
from gpu_pools.placement.queues import Kind, Queue
from gpu_pools.slots.lease import Holder, SlotProgress
from gpu_pools.slots.slot_files import UNKNOWN

_VERBS: Mapping[Kind, str] = {
    "training": "is training",
    "inference": "is running",
    "preparation": "is preparing",
    "pipeline": "is running",
    "housekeeping": "is running",
}
_SHOWN = 3  # holders named in a sentence


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device of this host as it is now."""

    tag: str  # cuda:0, cpu
    uuid: str  # of the GPU; "cpu"
    name: str
    limits: Mapping[Kind, int]  # a kind that is not there: none
    holders: tuple[Holder, ...]
    memory_used_mib: int
    utilisation_percent: int | None
    foreign: tuple[GpuProcess, ...]  # processes that are no run of ours
    paused: frozenset[str]  # names of queues
    fault: str | None = None  # why it does not answer; it takes no runs then
    memory_total_mib: int | None = None  # None: of no GPU
    memory_by_run: Mapping[str, int] = field(default_factory=dict)  # MiB that a holder uses, where that can be told


@dataclass(frozen=True, slots=True)
class Start:
    """The run starts on the device `uuid`."""

    run_id: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The run waits; one sentence why."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The run can never start on this host."""

    run_id: str
    reason: str


Decision = Start | Wait | Refuse


class Rule(Protocol):
    """What must hold, beside a free slot, for a run to start on a device; it asks nobody and changes nothing.

    Attributes:
        everywhere: it is about whose run it is, the same on all its devices, and is told also where no slot is free.
    """

    @property
    def everywhere(self) -> bool: ...

    def against(self, run: Waiting, device: DeviceState, starting: Mapping[str, Sequence[Waiting]]) -> str | None:
        """Return why a run may not start on a device with a free slot, as a sentence; None: it may.

        Args:
            run: one that waits.
            device: one that it could have.
            starting: what has been decided to start just now, by the device's uuid.
        """


@dataclass(frozen=True, slots=True)
class _Facts:
    devices: Sequence[DeviceState]
    host: str
    now: float
    paused: frozenset[str]
    starting: Mapping[str, list[Waiting]]  # by the device's uuid
    disk: Disk | None
    rules: Sequence[Rule]

    def no_room(self, kind: Kind) -> Disk | None:
        """Return the disk, if it is too full for a run of a kind; housekeeping makes room, and may start always."""
        return self.disk if self.disk is not None and self.disk.low and kind != "housekeeping" else None


def place(
    waiting: Sequence[Waiting],
    devices: Sequence[DeviceState],
    *,
    host: str,
    now: float,
    disk: Disk | None = None,
    rules: Sequence[Rule] = (),
) -> list[Decision]:
    """Decide on every waiting run; each is in exactly one decision, best first.

    A paused queue starts nothing. The queue of one device stands for the device: while `cuda:0.training` is paused,
    a run of `cuda.training` does not start on cuda:0 either.

    While the disk is too full, nothing starts but housekeeping.

    The slot that a run lost by a death is that run's, if it is one still, whoever waits.

    Which host: a run whose queue names another host is not this host's, and waits here whatever is free; the caller
    leaves such runs to that host's worker and passes one only when there is none. A run whose queue names no host is
    taken as this host's, so `Refuse` of one says no more than that this host lacks the device.

    Args:
        waiting: the runs that are due, their ids different.
        devices: all of this host, the CPU among them.
        host: this one's name.
        now: Unix seconds.
        disk: on which runs write; None: it is not looked at.
        rules: what else must hold; a run that one is against waits, and those behind it may start.
    """
    paused = frozenset[str]().union(*(device.paused for device in devices))
    facts = _Facts(devices, host, now, paused, {device.uuid: [] for device in devices}, disk, rules)
    ranked = sorted(waiting, key=lambda run: rank(run, now))
    wanted_most = Counter((run.queue.device, run.queue.kind) for run in ranked if run.queue.pinned)
    started: dict[str, str] = {}
    for run, wanted in [*((run, run.lost) for run in ranked if run.lost), *((run, "") for run in ranked)]:
        room = [device for device in _candidates(run, facts) if _may_start(run, device, facts)]
        room = [device for device in room if wanted in ("", device.uuid)]
        if room and run.queue.name not in paused and run.run_id not in started:
            # Where another one will do, a GPU is left to those that need it. One that is booked nobody else has.
            needed = wanted_most if not run.queue.pinned else Counter[tuple[str, Kind]]()
            chosen = min(
                room, key=lambda d: (d.tag not in run.booked, needed[d.tag, run.queue.kind] > 0, _load(d, facts))
            )
            wanted_most[run.queue.device, run.queue.kind] -= run.queue.pinned
            facts.starting[chosen.uuid].append(run)
            started[run.run_id] = chosen.uuid
    left = [run for run in ranked if run.run_id not in started]
    reasons = {decision.run_id: decision for decision in _explain(left, facts)}
    ranked.sort(key=lambda run: not (run.lost and started.get(run.run_id) == run.lost))
    return [Start(r.run_id, started[r.run_id]) if r.run_id in started else reasons[r.run_id] for r in ranked]


def _candidates(run: Waiting, facts: _Facts) -> list[DeviceState]:
    if run.queue.host not in (None, facts.host):
        return []
    if run.queue.pinned:
        return [device for device in facts.devices if device.tag == run.queue.device]
    return [device for device in facts.devices if device.tag.startswith("cuda:")]


def _may_start(run: Waiting, device: DeviceState, facts: _Facts) -> bool:
    return _has_room(device, run.queue.kind, facts) and _ruled_out(run, device, facts) is None


def _ruled_out(run: Waiting, device: DeviceState, facts: _Facts) -> str | None:
    """Return the first sentence of a rule against a run on a device."""
    return next(filter(None, (rule.against(run, device, facts.starting) for rule in facts.rules)), None)


def _has_room(device: DeviceState, kind: Kind, facts: _Facts) -> bool:
    held = sum(holder.kind == kind for holder in device.holders)
    held += sum(run.queue.kind == kind for run in facts.starting[device.uuid])
    return _takes(device, kind, facts) and held < device.limits[kind] and not facts.no_room(kind)


def _takes(device: DeviceState, kind: Kind, facts: _Facts) -> bool:
    """Return whether a device takes runs of a kind at all, now or when others have ended."""
    shut = device.fault or device.foreign or _paused(device, kind, facts)
    return not shut and device.limits.get(kind, 0) > 0


def _paused(device: DeviceState, kind: Kind, facts: _Facts) -> str | None:
    names = (Queue(device.tag, kind).name, Queue(device.tag, kind, facts.host).name)
    return next((name for name in names if name in facts.paused), None)


def _load(device: DeviceState, facts: _Facts) -> tuple[int, int, int, int]:
    n_runs = len(device.holders) + len(facts.starting[device.uuid])
    index = int(device.tag.partition(":")[2] or 0)
    return (n_runs, device.memory_used_mib, device.utilisation_percent or 0, index)


def _explain(left: Sequence[Waiting], facts: _Facts) -> Iterator[Wait | Refuse]:
    """Yield the sentence of every run that does not start, best first."""
    lines = Lines(left, facts.now)
    taken: dict[tuple[str, Kind], str] = {}  # hundreds of runs may wait for the same
    for run in left:
        queue, candidates = run.queue, _candidates(run, facts)
        if queue.host not in (None, facts.host):
            text = f"{queue.label} is a device of host {queue.host}, which has to start it; this is {facts.host}"
            yield Wait(run.run_id, text)
        elif not candidates:
            yield Refuse(run.run_id, _missing(queue, facts))
        elif queue.name in facts.paused:
            yield Wait(run.run_id, f"queue {queue.name} is paused")
        elif disk := facts.no_room(queue.kind):
            yield Wait(run.run_id, disk.sentence())
        elif ruled_out := _rules_against(run, candidates, facts):
            yield Wait(run.run_id, ruled_out)
        else:
            key = (queue.device, queue.kind)
            if key not in taken:
                parts = [_taken(device, queue.kind, facts) for device in candidates]
                taken[key] = parts[0] if len(parts) == 1 else f"all GPUs are taken: {'; '.join(parts)}"
            able = [device for device in candidates if _takes(device, queue.kind, facts)]
            yield Wait(run.run_id, taken[key] + lines.behind(run, [device.tag for device in able or candidates]))
            lines.add(run)


def _rules_against(run: Waiting, candidates: Sequence[DeviceState], facts: _Facts) -> str:
    """Return what keeps a run from slots that are free, or from all; empty: none is free."""
    for rule in facts.rules:
        if rule.everywhere and (text := rule.against(run, candidates[0], facts.starting)):
            return text
    free = [device for device in candidates if _has_room(device, run.queue.kind, facts)]
    return "; ".join(dict.fromkeys(filter(None, (_ruled_out(run, device, facts) for device in free))))


def _missing(queue: Queue, facts: _Facts) -> str:
    have = ", ".join(d.tag if d.tag == "cpu" else f"{d.tag} ({d.name})" for d in facts.devices) or "none"
    what = f"device {queue.label!r}" if queue.pinned else f"GPU for device {queue.label!r}"
    return f"found no {what} on {facts.host}; have: {have}"


def _taken(device: DeviceState, kind: Kind, facts: _Facts) -> str:
    """Return why a device takes no run of a kind now."""
    if name := _paused(device, kind, facts):
        return f"queue {name} is paused"
    if device.fault:
        return f"{device.tag} does not answer: {device.fault}"
    if device.foreign:
        return _foreign(device)
    limit = device.limits.get(kind, 0)
    starting = [run for run in facts.starting[device.uuid] if run.queue.kind == kind]
    who = [describe(holder, facts.now) for holder in device.holders if holder.kind == kind]
    who += [f"{whose(run.run_name, run.owner)}, which starts now" for run in starting]
    if limit == 1 and len(who) == 1:
        return f"{device.tag} {_VERBS[kind]} {who[0]}"
    rest = [f"{len(who) - _SHOWN} more"] if len(who) > _SHOWN else []
    text = f"the limit of {device.tag} {kind}s is {limit}"
    return f"{text}: {' and '.join(who[:_SHOWN] + rest)}" if who and limit > 0 else text


def _foreign(device: DeviceState) -> str:
    first, *others = device.foreign
    text = f"{device.tag} is in use by process {first.pid}"
    if first.user != UNKNOWN:
        text += f" ({first.name}) of {first.user}"
    if not others:
        return f"{text}, which is not a run of Trainyard"
    return f"{text} and {len(others)} other{'s' * (len(others) > 1)}, which are not runs of Trainyard"


def describe(holder: Holder, now: float) -> str:
    """Return who holds a slot, since when, how far the run is and how long it will take; `now` in Unix seconds."""
    if holder.run_id == UNKNOWN:
        return "a run whose record cannot be read"
    who, since = whose(holder.run_name, holder.owner), f"since {clock_text(holder.since, now)}"
    parts = [who, since] if holder.owner in NOBODY else [f"{who} {since}"]
    if holder.progress:
        parts.append(f"{holder.progress.unit} {holder.progress.epoch} of {holder.progress.n_epochs}")
        parts += _remaining(holder.progress, now)
    return ", ".join(parts)


def clock_text(moment: float, now: float) -> str:
    """Return a moment as people here read it: 14:02 today, else with its date; both in Unix seconds."""
    then, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def _remaining(progress: SlotProgress, now: float) -> list[str]:
    if progress.remaining_s is None:
        return []
    minutes = (progress.remaining_s - (now - progress.updated)) / 60
    if minutes < 1:
        return ["less than a minute more"]
    # Every change of the sentence is a call to Prefect for every run that waits for this one.
    step = 1 if minutes < 20 else 5 if minutes < 120 else 15
    return [f"about {round(minutes / step) * step} min more"]
