"""Counts how long free slots and runs that were due stood beside one another before the runs started."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from gpu_pools.placement.queues import Kind

EDGES: Final = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper ends of the classes, seconds; above the last one is one more."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many gaps there were of which length; seconds."""

    counts: tuple[int, ...] = (0,) * (len(EDGES) + 1)  # of each class
    total_s: float = 0.0

    def plus(self, seconds: float) -> "Tally":
        """Return it with one more."""
        n = bisect_left(EDGES, seconds)
        counts = tuple(count + (place == n) for place, count in enumerate(self.counts))
        return replace(self, counts=counts, total_s=self.total_s + seconds)

    @property
    def up_to(self) -> list[int]:
        """How many were at most so long, by class; the last one counts all."""
        return list(accumulate(self.counts))


class DispatchGaps:
    """The gaps of a worker since it began, by device and kind.

    A gap is the time from which a slot was free and the run that took it next was due, until that run's process was
    started: what the yard itself makes people wait.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, Kind], Tally] = {}

    def note(self, device: str, kind: Kind, seconds: float) -> None:
        """Count one."""
        self._tallies[device, kind] = self._tallies.get((device, kind), Tally()).plus(max(0.0, seconds))

    def tallies(self) -> Mapping[tuple[str, Kind], Tally]:
        """Return those of now."""
        return dict(self._tallies)
