"""Decides which waiting runs start where, and why each other one waits; a pure function."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from gpu_pools.bookings.estimates import rough
from gpu_pools.names import whose
from gpu_pools.placement.disk import Disk
from gpu_pools.placement.gathering import End, Gathering, end_of, end_of_new, gather, nth_end
from gpu_pools.placement.order import Lines, Waiting, rank
from gpu_pools.placement.probe import GpuProcess
from gpu_pools.placement.queues import Kind, Queue
from gpu_pools.placement.wording import and_text, describe
from gpu_pools.slots.slot_files import UNKNOWN, Holder

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
    """The run starts on the devices `uuids`, as many as it needs; the best first."""

    run_id: str
    uuids: tuple[str, ...]


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
    gathered: dict[Kind, Gathering] = field(default_factory=dict)  # of the best run of the kind that cannot start yet
    too_late: dict[str, float] = field(default_factory=dict)  # when devices enough for a run will be free; by its id

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

    The slots that a run lost by a death are that run's, if they are slots still, whoever waits.

    A run that needs several devices starts when all of them are free at the same moment, and holds none before. The
    best of those that cannot start yet has devices kept for it, see `Gathering`; runs better than it are not held
    back.

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
    started: dict[str, tuple[str, ...]] = {}
    for run, wanted in [*((run, run.lost) for run in ranked if run.lost), *((run, ()) for run in ranked)]:
        if run.queue.name in paused or run.run_id in started:
            continue
        room = [device for device in _candidates(run, facts) if _may_start(run, device, facts)]
        room = [device for device in room if not wanted or device.uuid in wanted]
        if len(room) >= run.n_devices:
            # Where another one will do, a GPU is left to those that need it. One that is booked nobody else has.
            needed = wanted_most if not run.queue.pinned else Counter[tuple[str, Kind]]()
            room.sort(key=lambda d: (d.tag not in run.booked, needed[d.tag, run.queue.kind] > 0, _load(d, facts)))
            wanted_most[run.queue.device, run.queue.kind] -= run.queue.pinned
            started[run.run_id] = tuple(device.uuid for device in room[: run.n_devices])
            for uuid in started[run.run_id]:
                facts.starting[uuid].append(run)
        elif run.n_devices > 1 and not wanted and run.queue.kind not in facts.gathered:
            _gather(run, facts)
    left = [run for run in ranked if run.run_id not in started]
    reasons = {decision.run_id: decision for decision in _explain(left, facts)}
    ranked.sort(key=lambda run: not (run.lost and set(started.get(run.run_id, ())) == set(run.lost)))
    return [Start(r.run_id, started[r.run_id]) if r.run_id in started else reasons[r.run_id] for r in ranked]


def _candidates(run: Waiting, facts: _Facts) -> list[DeviceState]:
    if run.queue.host not in (None, facts.host):
        return []
    if run.queue.pinned:
        return [device for device in facts.devices if device.tag == run.queue.device]
    return [device for device in facts.devices if device.tag.startswith("cuda:")]


def _may_start(run: Waiting, device: DeviceState, facts: _Facts) -> bool:
    free = _has_room(device, run.queue.kind, facts) and not _is_kept(run, device, facts)
    return free and _ruled_out(run, device, facts) is None


def _ruled_out(run: Waiting, device: DeviceState, facts: _Facts) -> str | None:
    """Return the first sentence of a rule against a run on a device."""
    return next(filter(None, (rule.against(run, device, facts.starting) for rule in facts.rules)), None)


def _is_kept(run: Waiting, device: DeviceState, facts: _Facts) -> bool:
    """Return whether a device is kept for another run, which needs several."""
    gathering = facts.gathered.get(run.queue.kind)
    return gathering is not None and gathering.keeps_from(run, device.uuid)


def _gather(run: Waiting, facts: _Facts) -> None:
    """Have devices kept for a run that needs several, if enough will be free before long."""
    candidates = _candidates(run, facts)
    if facts.no_room(run.queue.kind) or _everywhere_against(run, candidates, facts):
        return
    able = sorted(candidates, key=lambda device: _load(device, facts))
    ends = {device.uuid: end for device in able if (end := _free_from(run, device, facts)) is not None}
    found = gather(run, ends, facts.now)
    if found is None:
        return
    gathering, now = found
    if now:
        facts.gathered[run.queue.kind] = gathering
    else:
        facts.too_late[run.run_id] = gathering.until


def _free_from(run: Waiting, device: DeviceState, facts: _Facts) -> End | None:
    """Return when a run may have a device, as far as those of its kind keep it from that; None: something else does."""
    kind, starting = run.queue.kind, facts.starting[device.uuid]
    if not _takes(device, kind, facts):
        return None
    if _may_start(run, device, facts):
        return End(facts.now, True)
    others = [one for one in starting if one.queue.kind != kind]
    left = replace(facts, starting={**facts.starting, device.uuid: others})
    if _ruled_out(run, _without(device, kind), left) is not None:
        return None
    ends = [end_of(holder, facts.now) for holder in device.holders if holder.kind == kind]
    ends += [end_of_new(one, facts.now) for one in starting if one.queue.kind == kind]
    n_over = len(ends) - device.limits[kind]
    # Where a slot is free, but not what a rule asks for, all have to leave.
    return nth_end(ends, n_over + 1 if n_over >= 0 else len(ends)) if ends else None


def _without(device: DeviceState, kind: Kind) -> DeviceState:
    """Return a device as it would be if its runs of a kind had ended."""
    gone = [holder for holder in device.holders if holder.kind == kind]
    used = sum(device.memory_by_run.get(holder.run_id, holder.memory_mib or 0) for holder in gone)
    left = tuple(holder for holder in device.holders if holder.kind != kind)
    return replace(device, holders=left, memory_used_mib=max(0, device.memory_used_mib - used))


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
        elif len(candidates) < run.n_devices or not candidates:
            yield Refuse(run.run_id, _missing(run, facts))
        elif queue.name in facts.paused:
            yield Wait(run.run_id, f"queue {queue.name} is paused")
        elif disk := facts.no_room(queue.kind):
            yield Wait(run.run_id, disk.sentence())
        elif ruled_out := _rules_against(run, candidates, facts):
            yield Wait(run.run_id, ruled_out)
        else:
            key = (queue.device, queue.kind)
            if run.n_devices > 1:
                text = _several_text(run, candidates, facts)
            else:
                if key not in taken:
                    parts = [_taken(device, queue.kind, facts) for device in candidates]
                    taken[key] = parts[0] if len(parts) == 1 else f"all GPUs are taken: {'; '.join(parts)}"
                text = taken[key]
            able = [device for device in candidates if _takes(device, queue.kind, facts)]
            yield Wait(run.run_id, text + lines.behind(run, [device.tag for device in able or candidates]))
            lines.add(run)


def _rules_against(run: Waiting, candidates: Sequence[DeviceState], facts: _Facts) -> str:
    """Return what keeps a run from slots that are free, or from all; empty: none is free, or it needs several."""
    if text := _everywhere_against(run, candidates, facts):
        return text
    if run.n_devices > 1:
        return ""
    free = [device for device in candidates if _has_room(device, run.queue.kind, facts)]
    return "; ".join(_not_to_be_had(run, free, facts))


def _not_to_be_had(run: Waiting, free: Sequence[DeviceState], facts: _Facts) -> list[str]:
    """Return what keeps a run from devices that have a free slot: rules, and that some are kept for another run."""
    ruled_out = {device.tag: text for device in free if (text := _ruled_out(run, device, facts))}
    kept = [device.tag for device in free if device.tag not in ruled_out and _is_kept(run, device, facts)]
    for_whom = [facts.gathered[run.queue.kind].sentence(run, kept)] if kept else []
    return [*dict.fromkeys(ruled_out.values()), *for_whom]


def _everywhere_against(run: Waiting, candidates: Sequence[DeviceState], facts: _Facts) -> str:
    """Return what keeps a run from all its devices, whether they are free or not."""
    texts = (rule.against(run, candidates[0], facts.starting) for rule in facts.rules if rule.everywhere and candidates)
    return next(filter(None, texts), "")


def _several_text(run: Waiting, candidates: Sequence[DeviceState], facts: _Facts) -> str:
    """Return why a run that needs several devices waits: which are free for it, and what becomes of the others."""
    kind, gathering = run.queue.kind, facts.gathered.get(run.queue.kind)
    gathers = gathering is not None and gathering.run.run_id == run.run_id
    having = [device for device in candidates if _has_room(device, kind, facts)]
    free = [device.tag for device in having if _may_start(run, device, facts)]
    parts = (
        [f"{and_text(free)} {'is' if len(free) == 1 else 'are'} {'kept for it' if gathers else 'free'}"] if free else []
    )
    parts += _not_to_be_had(run, [device for device in having if device.tag not in free], facts)
    parts += [_taken(device, kind, facts) for device in candidates if device not in having]
    text = f"{'gathers' if gathers else 'needs'} {run.n_devices} GPUs{'' if gathers else ' at once'}"
    if run.run_id in facts.too_late:
        until = rough(facts.too_late[run.run_id] - facts.now)
        text += f", none of which is kept for it yet, as so many are expected to be free in about {until} only"
    return f"{text}: {'; '.join(parts)}"


def _missing(run: Waiting, facts: _Facts) -> str:
    queue, n = run.queue, run.n_devices
    if n > 1 and queue.pinned:
        return f"found device {queue.label} for n_devices {n}, need cuda or {facts.host}/cuda"
    if n > 1:
        n_gpus = sum(device.tag != "cpu" for device in facts.devices)
        return f"found {n_gpus} GPU{'s' * (n_gpus != 1)} on {facts.host}, need {n} for n_devices {n}"
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
