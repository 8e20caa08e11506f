"""Keeps devices for a run that needs several at once, until as many are free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpu_pools.hosts.offers import hosts_text
from gpu_pools.names import whose
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.wording import are_text, clock_text
from gpu_pools.slots.slot_files import Holder

GATHER_S = 4 * 3600.0
"""Devices are kept for a run that needs several only if as many are expected to be free together so soon, or within as
long as it has waited already: no device idles for longer than that, and every run is gathered for in the end."""

_AS_LONG_AGAIN = 2.0
"""A run of whose end nothing is known is taken to need so many times as long again as it has taken, one that is late
so many times as long again as it is late. Once is the usual guess; with twice, devices are not kept for ever where
somebody just stays, or hangs."""

_STEP_S = 600.0  # to which the moment is rounded up in sentences: each change is written on all that wait


@dataclass(frozen=True, slots=True)
class End:
    """When somebody is expected to leave a slot.

    Args:
        at: Unix seconds, not before now.
        known: whether he has said so, or has a time limit.
    """

    at: float
    known: bool


def end_of(holder: Holder, now: float) -> End:
    """Return when a run is expected to leave its slot: as it says itself, at its time limit at the latest.

    Args:
        holder: the run.
        now: Unix seconds.
    """
    far = holder.progress
    said = None if far is None or far.remaining_s is None else far.updated + far.remaining_s
    ends = [_from(moment, now) for moment in (said, holder.ends_by) if moment is not None]
    return min(ends, key=lambda end: end.at) if ends else replace(_from(holder.since, now), known=False)


def _from(moment: float, now: float) -> End:
    """Return when an end comes that was expected at some moment; one that is late for long is not known any more."""
    late_s = now - moment
    return End(moment, True) if late_s <= 0 else End(now + _AS_LONG_AGAIN * late_s, late_s < _STEP_S)


def end_of_new(run: Waiting, now: float) -> End:
    """Return when a run that starts now is expected to leave its slot; nothing is known of one without a time limit."""
    left_s = left_of(run)
    return End(now, False) if left_s is None else End(now + left_s, True)


def left_of(run: Waiting) -> float | None:
    """Return how many seconds of its time limit a run that waits has left; None: it has none."""
    return None if run.limit_s is None else max(0.0, run.limit_s - run.spent_s)


@dataclass(frozen=True, slots=True)
class Gathering:
    """A run that needs several devices at once, and those that are kept for it.

    Runs behind it may start on these only if their time limits end before all are expected to be free (EASY backfill:
    Lifka 1995, The ANL/IBM SP Scheduling System; Mu'alem & Feitelson 2001, IEEE TPDS 12(6)). The longer ones that
    EASY lets start too, where more devices than needed will be free by then, are not: here most ends are expected, not
    agreed on.

    Args:
        run: the best one that cannot start yet.
        kept: uuids of the devices.
        until: they are expected to be free; Unix seconds.
        known: whether that is known of all of them.
        now: Unix seconds.
    """

    run: Waiting
    kept: frozenset[str]
    until: float
    known: bool
    now: float

    def keeps_from(self, run: Waiting, uuid: str) -> bool:
        """Return whether a device is kept from a run of the same kind that is placed after the one that gathers.

        Args:
            run: that, or the one that gathers.
            uuid: of the device.
        """
        if run.share_of:  # of a run that has started
            return False
        left_s = left_of(run)
        ends_in_time = left_s is not None and self.now + left_s <= self.until
        return run.run_id != self.run.run_id and uuid in self.kept and not ends_in_time

    def sentence(self, run: Waiting, tags: Sequence[str]) -> str:
        """Return "cuda:0 is kept for X of anna, which gathers 4 GPUs until about 14:40".

        Args:
            run: for which these are kept from it.
            tags: of the devices, one at least.
        """
        who, advise = whose(self.run.run_name, self.run.owner), run.limit_s is None
        n, n_hosts = self.run.n_devices, self.run.n_hosts
        gathers = f"gathers {hosts_text(n_hosts, n) if n_hosts > 1 else f'{n} GPUs'}{self._until_text(advise)}"
        return f"{are_text(tags)} kept for {who}, which {gathers}"

    def _until_text(self, advise: bool) -> str:
        if not self.known:
            return ", nobody knows until when"
        text = f" until about {clock_text(-(-self.until // _STEP_S) * _STEP_S, self.now)}"
        return f"{text}; with a time limit that ends before, a run may start" if advise else text


def gather(run: Waiting, ends: Mapping[str, End], now: float) -> tuple[Gathering, bool] | None:
    """Return the devices that are kept for a run, or would be, and whether they are; None: too few will ever be free.

    Args:
        run: needs several devices.
        ends: when each device that it could have will be free, as far as that can be told; by uuid, the first the best.
        now: Unix seconds.
    """
    first = sorted(ends, key=lambda uuid: ends[uuid].at)[: run.n_devices]
    if len(first) < run.n_devices:
        return None
    until = max(ends[uuid].at for uuid in first)
    known = all(ends[uuid].known for uuid in first)
    found = Gathering(run, frozenset(first), until, known, now)
    return found, until - now <= max(GATHER_S, now - run.since)


def nth_end(ends: Sequence[End], n: int) -> End:
    """Return the `n`th of the ends, counted from 1 by time."""
    return sorted(ends, key=lambda end: end.at)[n - 1]
