"""Thirty days of eight people on four GPUs, simulated: fair share against first come first served and Slurm's formula.

The yard's own code decides, `place` and `FairShare`, with a clock that the simulation moves. Runs are made up as
clusters record them: durations of heavy tails, sweeps of many runs at once, days and weeks (Jeon et al., "Analysis of
Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads", ATC 2019; Hu et al., "Characterization and Prediction
of Deep Learning Workloads in Large-Scale GPU Datacenters", SC 2021). Two people ask for most of it, and all together
for more than there is. First come first served is `place` without what people had. Slurm's order is that of its
multifactor plugin with the classic fair-share factor (slurm.schedmd.com: priority_multifactor.html,
classic_fair_share.html).

Who asks for little is to get it, and those who ask for much the rest in equal parts: a person's fair share is what is
left when all that was computed is dealt out so (max-min), nobody getting more than they would have had alone. The share
error is the largest difference of a person's part of all GPU hours from that. The last line is JSON; `ratio` is the
mean wait of those who ask for less than an equal part, first come first served by fair share.

    python benchmarks/fairness.py [--days 30] [--load 1.2] [--seed 0]
"""

import argparse
import heapq
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gpu_pools.names import person_of
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import DeviceState, Start, place
from gpu_pools.placement.queues import Queue
from gpu_pools.sharing.fair_share import FairShare, shares
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.sharing.usage import UsageReader, Use
from gpu_pools.slots.lease import Holder

PEOPLE = {"anna": 8.0, "ben": 5.0, "carl": 1.5, "dora": 1.0, "emil": 0.8, "fay": 0.6, "gus": 0.4, "hana": 0.3}
"""Whose runs there are, and in which proportion they ask for GPU hours."""

N_GPUS = 4
START = 1_799_971_200.0  # a Monday, 00:00 UTC
HOUR, DAY = 3600.0, 86_400.0
MEDIAN_S, SIGMA, LONGEST_S = 1.0 * HOUR, 1.4, 36 * HOUR  # of a log-normal duration, cut off
SWEEP = 0.25  # of the requests are sweeps, of 2 to 24 runs

AGE_WEIGHT, SHARE_WEIGHT, MAX_AGE_S = 1000.0, 10_000.0, 7 * DAY
"""Slurm's PriorityWeightAge and PriorityWeightFairshare as in its page's example, and its default PriorityMaxAge."""

Order = Callable[[list[Waiting], list[Use], float], list[Waiting]]
"""(waiting, what was had, now) -> the runs as `place` is to see them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run that somebody asks for."""

    run_id: str
    owner: str
    asked: float  # Unix seconds
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order did.

    Args:
        began: by run, Unix seconds; all runs begin in the end.
        hours: by person, GPU hours within the days.
        busy: of all GPU hours within the days, 0 to 1.
    """

    began: dict[str, float]
    hours: dict[str, float]
    busy: float


def arrivals(days: float, load: float, seed: int) -> list[Job]:
    """Return the runs that people ask for, the first first.

    Args:
        days: so many.
        load: GPU hours that are asked for, by those that there are.
        seed: the same seed, the same runs.
    """
    rng = random.Random(seed)
    total_s = load * N_GPUS * days * DAY
    jobs: list[Job] = []
    for person, part in PEOPLE.items():
        left_s = total_s * part / sum(PEOPLE.values())
        while left_s > 0:
            at, n_runs = _moment(rng, days), rng.randint(2, 24) if rng.random() < SWEEP else 1
            typical_s = rng.lognormvariate(math.log(MEDIAN_S), SIGMA)
            for _ in range(n_runs):
                lasts_s = min(LONGEST_S, max(60.0, typical_s * rng.uniform(0.8, 1.25)), max(60.0, left_s))
                jobs.append(Job(f"{len(jobs):05d}", f"{person}@boxa", at, lasts_s))
                left_s -= lasts_s
                if left_s <= 0:
                    break
    return sorted(jobs, key=lambda job: (job.asked, job.run_id))


def _moment(rng: random.Random, days: float) -> float:
    """Return a time of the days: most of it between 9 and 19, little of it at night and on weekends."""
    while True:
        at = rng.uniform(0, days * DAY)
        hour, weekend = at % DAY / HOUR, at // DAY % 7 >= 5
        rate = (1.0 if 9 <= hour < 19 else 0.3 if 19 <= hour < 24 else 0.08) * (0.25 if weekend else 1.0)
        if rng.random() < rate:
            return START + at


def simulate(jobs: Sequence[Job], order: Order, days: float) -> Outcome:
    """Return how an order does: each time that a run comes or ends, `place` decides.

    Args:
        jobs: the first first.
        order: tells of the runs that wait what `place` is to know.
        days: of which hours are counted; runs go on until all have begun.
    """
    by_id = {job.run_id: job for job in jobs}
    events = [(job.asked, job.run_id) for job in jobs]
    heapq.heapify(events)
    waiting: dict[str, Waiting] = {}
    held: dict[str, tuple[str, float]] = {}  # GPU -> run, since
    began: dict[str, float] = {}
    ended: list[Use] = []
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, run_id = heapq.heappop(events)
            uuid = next((uuid for uuid, (other, _) in held.items() if other == run_id), None)
            if uuid is None:
                waiting[run_id] = _asks(by_id[run_id])
            else:
                ended.append(_use(by_id[run_id], held.pop(uuid)[1], now, running=False))
        if waiting and len(held) < N_GPUS:
            uses = [*ended, *(_use(by_id[run_id], since, now, running=True) for run_id, since in held.values())]
            for uuid, run_id in _starts(order(list(waiting.values()), uses, now), held, now):
                held[uuid], began[run_id] = (run_id, now), now
                heapq.heappush(events, (now + by_id[run_id].lasts_s, run_id))
                del waiting[run_id]
    end, hours = START + days * DAY, dict.fromkeys((*PEOPLE, *(person_of(job.owner) for job in jobs)), 0.0)
    for job in jobs:
        within_s = max(0.0, min(end, began[job.run_id] + job.lasts_s) - began[job.run_id])
        hours[person_of(job.owner)] += within_s / HOUR
    return Outcome(began, hours, sum(hours.values()) / (N_GPUS * days * 24))


def _starts(waiting: list[Waiting], held: dict[str, tuple[str, float]], now: float) -> Iterator[tuple[str, str]]:
    """Yield GPU and run of each that starts."""
    for decision in place(waiting, [_gpu(n, held) for n in range(N_GPUS)], host="boxa", now=now):
        if isinstance(decision, Start):
            yield decision.uuids[0], decision.run_id


def _gpu(index: int, held: dict[str, tuple[str, float]]) -> DeviceState:
    uuid, tag = f"GPU-{index}", f"cuda:{index}"
    run_id, since = held.get(uuid, ("", 0.0))
    holders = (Holder(run_id, run_id, "", tag, uuid, "training", 0, 1, since, None),) if run_id else ()
    return DeviceState(tag, uuid, "X", {"training": 1}, holders, 0, 0, (), frozenset())


def _asks(job: Job) -> Waiting:
    return Waiting(job.run_id, job.run_id, Queue("cuda", "training"), 5, job.asked, job.owner)


def _use(job: Job, began: float, until: float, *, running: bool) -> Use:
    ended, state = (None, "RUNNING") if running else (until, "COMPLETED")
    return Use(
        *(job.run_id, job.run_id, job.owner, "", "", "cuda:0", "boxa", "training", job.asked, began),
        *(ended, state, state.title(), until - began, until),
        queue="cuda.training",
    )


# ---- orders


def first_come(waiting: list[Waiting], uses: list[Use], now: float) -> list[Waiting]:
    """Return the runs as they are: nobody had anything."""
    return waiting


class Recorded(UsageReader):
    """The uses of a simulation.

    Attributes:
        known: they.
        now: Unix seconds.
    """

    known: Sequence[Use] = ()
    now = START

    def __init__(self) -> None:
        """Read nothing."""

    def uses(self) -> list[Use]:
        """Return the uses."""
        return list(self.known)


def fair_share() -> Order:
    """Return the yard's order."""
    recorded = Recorded()
    known = FairShare(recorded, SettingsReader(), lambda: recorded.now)

    def order(waiting: list[Waiting], uses: list[Use], now: float) -> list[Waiting]:
        recorded.known, recorded.now = uses, now
        return known.told(waiting)

    return order


def slurm(waiting: list[Waiting], uses: list[Use], now: float) -> list[Waiting]:
    """Return the runs in the order of Slurm's multifactor plugin, as times since which they wait.

    The factor of age is the wait by PriorityMaxAge, 1 at most. That of fair share is 2^(-U/S): U is a person's part of
    all that was had lately, halved for every week since, and S an equal part.
    """
    had = {person: share.gpu_s for person, share in shares(uses, now).items()}
    total_s = sum(had.values()) or 1.0

    def priority(run: Waiting) -> float:
        age = min(1.0, (now - run.since) / MAX_AGE_S)
        factor = 2 ** (-(had.get(person_of(run.owner), 0.0) / total_s) * len(PEOPLE))
        return AGE_WEIGHT * age + SHARE_WEIGHT * factor

    ranked = sorted(waiting, key=lambda run: (-priority(run), run.since, run.run_id))
    return [replace(run, since=now - 0.001 * (len(ranked) - n)) for n, run in enumerate(ranked)]


# ---- what is to be seen


def entitled(jobs: Sequence[Job], computed_h: float, days: float) -> dict[str, float]:
    """Return each person's fair share of the hours that were computed: max-min, at most what they would have alone."""
    alone = {}
    for person in PEOPLE:
        own = [job for job in jobs if person_of(job.owner) == person]
        alone[person] = simulate(own, first_come, days).hours[person] if own else 0.0
    found, left_h = {}, computed_h
    for n, person in enumerate(sorted(alone, key=lambda one: alone[one])):
        found[person] = min(alone[person], left_h / (len(alone) - n))
        left_h -= found[person]
    return found


def waits_h(jobs: Sequence[Job], outcome: Outcome, person: str) -> list[float]:
    """Return how many hours a person's runs waited."""
    return [(outcome.began[job.run_id] - job.asked) / HOUR for job in jobs if person_of(job.owner) == person]


def _table(jobs: Sequence[Job], outcomes: dict[str, Outcome], fair: dict[str, float]) -> None:
    print(f"{'':6} {'runs':>5} {'asked h':>8} {'fair h':>7}", *(f"{name:>26}" for name in outcomes))
    print(f"{'':29}", *(f"{'got h':>8} {'wait: mean':>10} {'max':>6}" for _ in outcomes))
    for person in PEOPLE:
        own = [job for job in jobs if person_of(job.owner) == person]
        row = f"{person:6} {len(own):5} {sum(job.lasts_s for job in own) / HOUR:8.0f} {fair[person]:7.0f}"
        for outcome in outcomes.values():
            waits = waits_h(jobs, outcome, person) or [0.0]
            row += f" {outcome.hours[person]:8.0f} {statistics.mean(waits):9.1f}h {max(waits):5.0f}h"
        print(row)


def measure(days: float, load: float, seed: int) -> dict[str, float]:
    """Print the waits of all people in all orders; return the figures of the last line."""
    jobs = arrivals(days, load, seed)
    orders: dict[str, Order] = {"first come": first_come, "Slurm": slurm, "fair share": fair_share()}
    outcomes = {name: simulate(jobs, order, days) for name, order in orders.items()}
    computed_h = sum(outcomes["fair share"].hours.values())
    fair = entitled(jobs, computed_h, days)
    _table(jobs, outcomes, fair)
    errors = {}
    for name, outcome in outcomes.items():
        errors[name] = max(abs(outcome.hours[one] - fair[one]) for one in PEOPLE) / computed_h
        longest_h = max(max(waits_h(jobs, outcome, one), default=0.0) for one in PEOPLE)
        print(f"{name}: GPUs busy {outcome.busy:.1%}, share error {errors[name]:.3f}, longest wait {longest_h:.0f} h")
    modest = [one for one in PEOPLE if fair[one] < computed_h / len(PEOPLE)]
    means = {
        name: statistics.mean(wait for one in modest for wait in waits_h(jobs, outcome, one))
        for name, outcome in outcomes.items()
    }
    return {
        "ratio": round(means["first come"] / means["fair share"], 2),
        "ratio_slurm": round(means["Slurm"] / means["fair share"], 2),
        "utilisation_ratio": round(outcomes["fair share"].busy / outcomes["first come"].busy, 4),
        "share_error": round(errors["fair share"], 4),
        "share_error_first_come": round(errors["first come"], 4),
        "share_error_slurm": round(errors["Slurm"], 4),
        "longest_wait_h": round(max(max(waits_h(jobs, outcomes["fair share"], one), default=0.0) for one in PEOPLE), 1),
        "runs": len(jobs),
    }


def main() -> None:
    """Simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=1.2, help="GPU hours asked for, by those there are")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(measure(options.days, options.load, options.seed)))


if __name__ == "__main__":
    main()
