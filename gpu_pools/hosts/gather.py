"""Gathers the devices of several hosts for one run: each keeps its own until all have them."""

import math
from collections.abc import Iterable
from dataclasses import replace

from gpu_pools.hosts.offers import Offer, gathering_text, hosts_text, is_among_first, others_in_s, speaks
from gpu_pools.names import whose
from gpu_pools.placement.facts import Facts, Wait
from gpu_pools.placement.gathering import GATHER_S, Gathering
from gpu_pools.placement.order import AGING_S, Waiting
from gpu_pools.placement.queues import Kind


def fixed_order(run: Waiting) -> tuple[float, str]:
    """Sorts runs that need several hosts, the same on every host whatever its clock: by when they were due.

    A step of priority counts as ten minutes. Hosts that gathered for different runs would wait for one another.
    """
    return run.due + AGING_S * run.priority, run.run_id


def turns_of(waiting: Iterable[Waiting], facts: Facts) -> dict[Kind, Waiting]:
    """Return the run of each kind for which hosts gather now, of those that need several.

    One that could not start if all devices were free, as its queue is paused or its owner has all that he may have,
    is passed over, on every host alike.
    """
    turns: dict[Kind, Waiting] = {}
    for run in sorted((run for run in waiting if run.n_hosts > 1), key=fixed_order):
        barred = run.queue.name in facts.paused or facts.everywhere_against(run, facts.candidates(run))
        if not barred:
            turns.setdefault(run.queue.kind, run)
    return turns


def has_turn(run: Waiting, facts: Facts) -> bool:
    """Return whether devices may be kept for a run: it needs one host, or is the first of those that need several."""
    first = facts.turns.get(run.queue.kind)
    return run.n_hosts == 1 or (first is not None and first.run_id == run.run_id)


def keep_for_hosts(found: Gathering, facts: Facts) -> None:
    """Keep devices of this host for a run that needs several hosts, if enough others have theirs before long.

    Nothing is kept where the others have said that nobody knows when they have theirs, nor where enough of them have
    theirs sooner. Each says so within a second, and nobody else gets a device meanwhile: of a run that starts again its
    hosts were its own.

    Args:
        found: the devices here, and when they are free.
        facts: gets the gathering, unless devices are kept for another run already.
    """
    run, now = found.run, found.now
    own_s = max(0.0, found.until - now)
    facts.ready_in_s[run.run_id] = own_s
    unheard = len(run.offers) < run.n_hosts - 1
    until = max(found.until, now + (0.0 if unheard else others_in_s(facts.host, run.offers, run.n_hosts)))
    soon = until - now <= max(GATHER_S, now - run.since)
    if soon and is_among_first(facts.host, own_s, run.offers, run.n_hosts):
        facts.gathered.setdefault(run.queue.kind, replace(found, until=until, known=found.known and not unheard))


def wait_for_hosts(run: Waiting, text: str, facts: Facts) -> Wait:
    """Return why a run that needs several hosts waits, and what this one offers it.

    Args:
        run: the run.
        text: which of this host's devices are free for it, and what becomes of the others.
        facts: of this host.
    """
    first = facts.turns.get(run.queue.kind, run)
    if first.run_id != run.run_id:
        who, needs = whose(first.run_name, first.owner), hosts_text(run.n_hosts, run.n_devices)
        said = f"needs {needs}; {who}, which needs {first.n_hosts} hosts, gathers before it"
        return Wait(run.run_id, said, Offer(text="gathers for another run"))
    gathering = facts.gathered.get(run.queue.kind)
    kept = gathering is not None and gathering.run.run_id == run.run_id
    offer = Offer(facts.ready_in_s.get(run.run_id, math.inf), kept, text)
    said = gathering_text(facts.host, offer, run.offers, run.n_hosts, run.n_devices)
    return Wait(run.run_id, said if speaks(facts.host, run.offers) else "", offer)
