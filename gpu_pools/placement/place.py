"""Decides which waiting runs start where, and why each other one waits; a pure function."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gpu_pools.bookings.estimates import rough
from gpu_pools.hosts.gather import has_turn, keep_for_hosts, turns_of, wait_for_hosts
from gpu_pools.hosts.offers import Offer, team_of
from gpu_pools.names import whose
from gpu_pools.placement.disk import Disk
from gpu_pools.placement.facts import Decision, DeviceState, Facts, Refuse, Rule, Start, Wait
from gpu_pools.placement.gathering import End, Gathering, end_of, end_of_new, gather, nth_end
from gpu_pools.placement.order import Lines, Waiting, rank
from gpu_pools.placement.queues import Kind
from gpu_pools.placement.wording import are_text, describe
from gpu_pools.slots.slot_files import UNKNOWN

__all__ = ["Decision", "DeviceState", "Refuse", "Rule", "Start", "Wait", "place"]

_VERBS: Mapping[Kind, str] = {
    "training": "training",
    "inference": "running",
    "preparation": "preparing",
    "pipeline": "running",
    "housekeeping": "running",
}
_SHOWN = 3  # holders named in a sentence


def place(
    waiting: Sequence[Waiting],
    devices: Sequence[DeviceState],
    *,
    host: str,
    now: float,
    disk: Disk | None = None,
    rules: Sequence[Rule] = (),
) -> list[Decision]:
    """Decide on every waiting run; each is in exactly one decision, best first (`order.rank`).

    A paused queue starts nothing. The queue of one device stands for the device: while `cuda:0.training` is paused,
    a run of `cuda.training` does not start on cuda:0 either.

    While the disk is too full, nothing starts but housekeeping.

    The slots that a run lost by a death are that run's, if they are slots still, whoever waits.

    A run that needs several devices starts when all of them are free at the same moment, and holds none before. The
    best of those that cannot start yet has devices kept for it, see `Gathering`; runs better than it are not held
    back. One that needs several hosts starts when all of them have said so, see `gpu_pools.hosts.gather`.

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
    facts = Facts(devices, host, now, paused, {device.uuid: [] for device in devices}, disk, rules)
    ranked = sorted(waiting, key=lambda run: rank(run, now))
    wanted_most = Counter((run.queue.device, run.queue.kind) for run in ranked if run.queue.pinned)
    facts.turns.update(turns_of(ranked, facts))
    started: dict[str, Start] = {}
    for run, wanted in [*((run, run.lost) for run in ranked if run.lost), *((run, ()) for run in ranked)]:
        if run.queue.name in paused or run.run_id in started or not has_turn(run, facts):
            continue
        room = [device for device in facts.candidates(run) if facts.may_start(run, device)]
        room = [device for device in room if not wanted or device.uuid in wanted]
        if len(room) >= run.n_devices:
            # Where another one will do, a GPU is left to those that need it. One that is booked nobody else has.
            needed = wanted_most if not run.queue.pinned else Counter[tuple[str, Kind]]()
            room.sort(key=lambda d: (d.tag not in run.booked, needed[d.tag, run.queue.kind] > 0, facts.load(d)))
            uuids = tuple(device.uuid for device in room[: run.n_devices])
            team = team_of(facts.host, run.offers, run.n_hosts)
            if run.n_hosts > 1 and not team:
                keep_for_hosts(Gathering(run, frozenset(uuids), now, True, now), facts)
                continue
            wanted_most[run.queue.device, run.queue.kind] -= run.queue.pinned
            started[run.run_id] = Start(run.run_id, uuids, team)
            for uuid in uuids:
                facts.starting[uuid].append(run)
        elif run.n_devices * run.n_hosts > 1 and not wanted and run.queue.kind not in facts.gathered:
            _gather(run, facts)
    left = [run for run in ranked if run.run_id not in started]
    reasons = {decision.run_id: decision for decision in _explain(left, facts)}
    ranked.sort(key=lambda r: not (r.lost and r.run_id in started and set(started[r.run_id].uuids) == set(r.lost)))
    return [started.get(run.run_id) or reasons[run.run_id] for run in ranked]


def _gather(run: Waiting, facts: Facts) -> None:
    """Have devices kept for a run that needs several, if enough will be free before long."""
    candidates = facts.candidates(run)
    if facts.no_room(run.queue.kind) or facts.everywhere_against(run, candidates):
        return
    able = sorted(candidates, key=lambda device: facts.load(device))
    ends = {device.uuid: end for device in able if (end := _free_from(run, device, facts)) is not None}
    found = gather(run, ends, facts.now)
    if found is None:
        return
    gathering, now = found
    if run.n_hosts > 1:
        keep_for_hosts(gathering, facts)
    elif now:
        facts.gathered[run.queue.kind] = gathering
    else:
        facts.too_late[run.run_id] = gathering.until


def _free_from(run: Waiting, device: DeviceState, facts: Facts) -> End | None:
    """Return when a run may have a device, as far as those of its kind keep it from that; None: something else does."""
    kind, starting = run.queue.kind, facts.starting[device.uuid]
    if not facts.takes(device, kind):
        return None
    if facts.may_start(run, device):
        return End(facts.now, True)
    others = [one for one in starting if one.queue.kind != kind]
    left = replace(facts, starting={**facts.starting, device.uuid: others})
    if left.ruled_out(run, _without(device, kind)) is not None:
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


def _explain(left: Sequence[Waiting], facts: Facts) -> Iterator[Wait | Refuse]:
    """Yield the sentence of every run that does not start, best first."""
    lines = Lines(left, facts.now)
    taken: dict[tuple[str, Kind], str] = {}  # hundreds of runs may wait for the same
    for run in left:
        queue, candidates = run.queue, facts.candidates(run)
        if queue.host not in (None, facts.host):
            text = f"{queue.label} is a device of host {queue.host}, which has to start it; this is {facts.host}"
            yield Wait(run.run_id, text)
        elif len(candidates) < run.n_devices or not candidates:
            yield Refuse(run.run_id, _missing(run, facts))
        elif queue.name in facts.paused:
            yield Wait(run.run_id, f"queue {queue.name} is paused")
        elif disk := facts.no_room(queue.kind):
            yield Wait(run.run_id, disk.sentence(), _no_offer(run, disk.sentence()))
        elif ruled_out := _rules_against(run, candidates, facts):
            yield Wait(run.run_id, ruled_out, _no_offer(run, ruled_out))
        elif run.n_hosts > 1:
            yield wait_for_hosts(run, "; ".join(_several_parts(run, candidates, facts)), facts)
            lines.add(run)
        else:
            key = (queue.device, queue.kind)
            if run.n_devices > 1:
                text = _several_text(run, candidates, facts)
            else:
                if key not in taken:
                    text = "; ".join(_taken(candidates, queue.kind, facts))
                    taken[key] = text if len(candidates) == 1 else f"all GPUs are taken: {text}"
                text = taken[key]
            able = [device for device in candidates if facts.takes(device, queue.kind)]
            yield Wait(run.run_id, text + lines.behind(run, [device.tag for device in able or candidates]))
            lines.add(run)


def _no_offer(run: Waiting, text: str) -> Offer | None:
    """Return what a host says to the others that has nothing for a run that needs several."""
    return Offer(text=text) if run.n_hosts > 1 else None


def _rules_against(run: Waiting, candidates: Sequence[DeviceState], facts: Facts) -> str:
    """Return what keeps a run from slots that are free, or from all; empty: none is free, or it needs several."""
    if text := facts.everywhere_against(run, candidates):
        return text
    if run.n_devices * run.n_hosts > 1:
        return ""
    free = [device for device in candidates if facts.has_room(device, run.queue.kind)]
    return "; ".join(_not_to_be_had(run, free, facts))


def _not_to_be_had(run: Waiting, free: Sequence[DeviceState], facts: Facts) -> list[str]:
    """Return what keeps a run from devices that have a free slot: rules, and that some are kept for another run."""
    ruled_out = {device.tag: text for device in free if (text := facts.ruled_out(run, device))}
    kept = [device.tag for device in free if device.tag not in ruled_out and facts.is_kept(run, device)]
    for_whom = [facts.gathered[run.queue.kind].sentence(run, kept)] if kept else []
    return [*dict.fromkeys(ruled_out.values()), *for_whom]


def _several_text(run: Waiting, candidates: Sequence[DeviceState], facts: Facts) -> str:
    """Return why a run that needs several devices waits: which are free for it, and what becomes of the others."""
    gathers = _gathers(run, facts)
    text = f"{'gathers' if gathers else 'needs'} {run.n_devices} GPUs{'' if gathers else ' at once'}"
    if run.run_id in facts.too_late:
        until = rough(facts.too_late[run.run_id] - facts.now)
        text += f", none of which is kept for it yet, as so many are expected to be free in about {until} only"
    return f"{text}: {'; '.join(_several_parts(run, candidates, facts))}"


def _gathers(run: Waiting, facts: Facts) -> bool:
    gathering = facts.gathered.get(run.queue.kind)
    return gathering is not None and gathering.run.run_id == run.run_id


def _several_parts(run: Waiting, candidates: Sequence[DeviceState], facts: Facts) -> list[str]:
    """Return which devices are free for a run that needs several, and what becomes of the others."""
    kind, gathers = run.queue.kind, _gathers(run, facts)
    having = [device for device in candidates if facts.has_room(device, kind)]
    able = [device for device in having if facts.may_start(run, device)]
    free = [device.tag for device in able if not gathers or device.uuid in facts.gathered[kind].kept]
    parts = [f"{are_text(free)} {'kept for it' if gathers else 'free'}"] if free else []
    if len(free) >= run.n_devices:  # it waits for other hosts
        return parts
    parts += _not_to_be_had(run, [device for device in having if device not in able], facts)
    return parts + _taken([device for device in candidates if device not in having], kind, facts)


def _missing(run: Waiting, facts: Facts) -> str:
    queue, n = run.queue, run.n_devices
    if n > 1 and queue.pinned:
        return f"found device {queue.label} for n_devices {n}, need cuda or {facts.host}/cuda"
    if n > 1:
        n_gpus = sum(device.tag != "cpu" for device in facts.devices)
        return f"found {n_gpus} GPU{'s' * (n_gpus != 1)} on {facts.host}, need {n} for n_devices {n}"
    have = ", ".join(d.tag if d.tag == "cpu" else f"{d.tag} ({d.name})" for d in facts.devices) or "none"
    what = f"device {queue.label!r}" if queue.pinned else f"GPU for device {queue.label!r}"
    return f"found no {what} on {facts.host}; have: {have}"


def _taken(devices: Sequence[DeviceState], kind: Kind, facts: Facts) -> list[str]:
    """Return why devices take no run of a kind now; those that one run has are told of together."""
    tags_of: dict[str, list[str]] = {}
    for device in devices:
        sole = _sole_run(device, kind, facts)
        tags_of.setdefault(sole or _shut(device, kind, facts), []).extend([device.tag] if sole else [])
    return [f"{are_text(tags)} {_VERBS[kind]} {why}" if tags else why for why, tags in tags_of.items()]


def _sole_run(device: DeviceState, kind: Kind, facts: Facts) -> str:
    """Return the one run for which a device takes no other; empty: it is closed, or takes several."""
    who = _runs(device, kind, facts)
    return who[0] if len(who) == 1 == device.limits.get(kind) and facts.takes(device, kind) else ""


def _runs(device: DeviceState, kind: Kind, facts: Facts) -> list[str]:
    """Return the runs of a kind that a device has, or is about to have."""
    starting = [run for run in facts.starting[device.uuid] if run.queue.kind == kind]
    who = [describe(holder, facts.now) for holder in device.holders if holder.kind == kind]
    return [*who, *(f"{whose(run.run_name, run.owner)}, which starts now" for run in starting)]


def _shut(device: DeviceState, kind: Kind, facts: Facts) -> str:
    """Return why a device takes no run of a kind now, where that is not one other run."""
    if name := facts.paused_by(device, kind):
        return f"queue {name} is paused"
    if device.fault:
        return f"{device.tag} does not answer: {device.fault}"
    if device.foreign:
        return _foreign(device)
    limit, who = device.limits.get(kind, 0), _runs(device, kind, facts)
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
