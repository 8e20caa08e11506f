"""Whose turn it is among the processes of a host; who does not take his is passed over."""

from collections.abc import Callable, Collection, Sequence

from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Decision, Start
from gpu_pools.slots.waiters import Who, waiting_elsewhere

PATIENCE_S = 10.0
"""So long a free slot is left to a run of another process: it may be stopped, or not see what is seen here."""

PASSED_OVER_S = 300.0
"""So long a run counts for nothing that has let its turn pass; it may still take a slot that is free."""


class Turns:
    """The runs of other processes of this host that count where a run of this one is placed.

    Args:
        who: the other processes.
        clock: seconds.
    """

    def __init__(self, who: tuple[Who, ...], clock: Callable[[], float]) -> None:
        self._who, self._clock = who, clock
        self._given: dict[str, float] = {}
        self._passed: dict[str, float] = {}

    def others(self, but: Collection[str]) -> list[Waiting]:
        """Return them, without those whose ids are known here already.

        Raises:
            StorageError: the files that name them cannot be read.
        """
        now = self._clock()
        self._passed = {run_id: until for run_id, until in self._passed.items() if now < until}
        return [run for run in waiting_elsewhere(self._who, but) if run.run_id not in self._passed]

    def note(self, others: Sequence[Waiting], decisions: Sequence[Decision]) -> None:
        """Remember who was given a slot, and since when it is left to him."""
        now, ids = self._clock(), {run.run_id for run in others}
        given = [go.run_id for go in decisions if isinstance(go, Start) and go.run_id in ids]
        self._given = {run_id: self._given.get(run_id, now) for run_id in given}
        late = [run_id for run_id, since in self._given.items() if now - since > PATIENCE_S]
        self._passed |= dict.fromkeys(late, now + PASSED_OVER_S)
