"""Keeps the list of waiting runs up to date with few and small requests."""

import time
from collections.abc import Callable

from gpu_pools.prefect_client import PoolClient, Run

_MARGIN_S = 30.0  # a run is seen by the server some time after it is due, and clocks of hosts differ
_SHARE = 0.1  # of the time at most goes into reading the whole list


class WaitList:
    """What waits and is due, oldest first.

    The whole list is read again after ten times the time that took; in between only what has come due lately is
    asked for, and what was put back, which was due before. A run that was cancelled meanwhile may still stand in it:
    the server refuses to start it then.
    """

    def __init__(self, client: PoolClient, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._known: dict[str, Run] = {}
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._cost_s = 0.0
        self._put_back: set[str] = set()

    def read(self) -> list[Run]:
        """Return the runs that wait."""
        now = self._clock()
        if now - self._read_at >= self._cost_s / _SHARE:
            begun = time.perf_counter()
            self._known = {run.id: run for run in self._client.due()}
            self._cost_s, self._read_at = time.perf_counter() - begun, now
        else:
            self._known.update({run.id: run for run in self._client.due(after=self._read_at - _MARGIN_S)})
            back = self._client.by_id(sorted(self._put_back))
            self._known.update({run.id: run for run in back.values() if run.state == "SCHEDULED"})
        self._put_back.clear()
        self._asked_at = now
        return sorted(self._known.values(), key=lambda run: run.since)

    def known(self, within_s: float) -> list[Run] | None:
        """Return what waited at the last reading and was not dropped; None where that is longer ago than `within_s`."""
        return list(self._known.values()) if self._clock() - self._asked_at <= within_s else None

    def put_back(self, run_id: str) -> None:
        """Look at the next reading for a run that waits again."""
        self._put_back.add(run_id)

    def drop(self, run_id: str) -> None:
        """Forget a run that waits no longer; where it does after all, the server says so again."""
        self._known.pop(run_id, None)
