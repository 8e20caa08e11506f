"""How long a run is expected to take: learned from those that ended, bounded by its time limit."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import duration_text

ASSUMED_S = 8 * 3600.0
"""Of a run of which nothing is known: longer than a working day, so that it ends before a booking on the next one."""

LAST = 20
"""So many runs are learned from, the newest: data and code change."""

_LEAST = 3  # fewer say nothing of the next one
_QUANTILE = 0.9  # one in ten takes longer: it is asked to make way where it does


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has come to its end by itself.

    Args:
        flow: the id of it.
        seconds: on its slot, in all attempts.
    """

    name: str
    owner: str
    flow: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much longer a run is expected to hold its slot, and how that is known: "is expected to take about 3 h"."""

    seconds: float
    words: str


class Durations:
    """How long the runs of a yard took.

    Runs of the same name and owner tell most, as names hold the data: `train_classifier-rfuav`. Then those of the
    same name, of the same owner, and all of the flow.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], list[float]] = {}

    def learn(self, ended: Iterable[Ended]) -> None:
        """Take in runs, the newest last."""
        for run in ended:
            for key in _keys(run.flow, run.name, run.owner):
                self._known[key] = [*self._known.get(key, []), run.seconds][-LAST:]

    def of(self, run: Waiting) -> Sequence[float]:
        """Return the seconds that runs like one took; empty: nothing is known."""
        found = (self._known.get(key, []) for key in _keys(run.flow, run.run_name, run.owner))
        return next((seconds for seconds in found if len(seconds) >= _LEAST), [])


def _keys(flow: str, name: str, owner: str) -> list[tuple[str, str, str]]:
    pairs = [(name, owner), (name, ""), ("", owner), ("", "")]
    return [(flow, *pair) for pair in pairs]


def estimate(run: Waiting, known: Sequence[float]) -> Estimate:
    """Return how long a run that waits is expected to hold its slot.

    Of one that was on a slot before, the runs count that took longer than it did by then. Where none did, it is taken
    to need as long again.

    Args:
        run: its time limit bounds what is learned.
        known: seconds that runs like it took.
    """
    limit_s = math.inf if run.limit_s is None else max(0.0, run.limit_s - run.spent_s)
    more = " more" if run.spent_s else ""
    if not known:
        if limit_s < math.inf:
            return Estimate(limit_s, f"may take{more} up to its time limit of {duration_text(run.limit_s or 0)}")
        return Estimate(
            ASSUMED_S,
            f"has no time limit, and too few like it have ended to learn from, so {rough(ASSUMED_S)} are assumed; "
            "one with a time limit may start in a shorter gap",
        )
    longer = [seconds - run.spent_s for seconds in known if seconds > run.spent_s]
    learned_s = quantile(longer, _QUANTILE) if longer else run.spent_s
    source = f"learned from {len(known)} runs"
    if limit_s < learned_s:
        return Estimate(limit_s, f"may take{more} up to its time limit of {duration_text(run.limit_s or 0)}")
    return Estimate(learned_s, f"is expected to take about {rough(learned_s)}{more} ({source})")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least of the values that is no less than a share of them; `values` is not empty."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def rough(seconds: float) -> str:
    """Return seconds as a person estimates them: 40 s, 25 min, 3 h, 3.5 h, 2 days."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{round(seconds / 1800) / 2:g} h"
    return f"{round(seconds / 43_200) / 2:g} days"
