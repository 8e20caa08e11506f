"""Keeps the list of waiting runs up to date with few and small requests."""

import time
from collections.abc import Callable

from gpu_pools.prefect_client import PoolClient, Run

_MARGIN_S = 30.0  # a run is seen by the server some time after it is due
_CANCELLING_EVERY_S = 1.0
_SHARE = 0.1  # of the time at most goes into reading the whole list


class WaitList:
    """What waits and is due, oldest first.

    The whole list is read again after ten times the time that took; in between only what has come due lately is
    asked for, and what was put back, which was due before. A run that was cancelled meanwhile may still stand in it:
    the server refuses to start it then.

    Args:
        client: of Prefect's server.
        clock: Unix seconds.
        every_s: returns for how long at least the server is not asked again.
    """

    def __init__(
        self, client: PoolClient, clock: Callable[[], float], every_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._client, self._clock, self._every_s = client, clock, every_s
        self._cancelling: list[Run] = []
        self._cancelling_at = float("-inf")
        self._looked = False  # for `cancelling`, so that `read` need not
        self._known: dict[str, Run] = {}
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._cost_s = 0.0
        self._put_back: set[str] = set()

    def cancelling(self) -> list[Run]:
        """Return the runs that are being cancelled, each time that they were read once; empty: they were not read anew.

        The `read` that follows needs no look of its own: one request has both, but where the whole list is long.
        """
        self._look(with_cancelling=True)
        self._looked = True
        found, self._cancelling = self._cancelling, []
        return found

    def read(self) -> list[Run]:
        """Return the runs that wait."""
        if not self._looked:
            self._look(with_cancelling=False)
        self._looked = False
        back = self._client.by_id(sorted(self._put_back))
        self._known.update({run.id: run for run in back.values() if run.state == "SCHEDULED"})
        self._put_back.clear()
        return sorted(self._known.values(), key=lambda run: run.since)

    def _look(self, *, with_cancelling: bool) -> None:
        now = self._clock()
        if now - self._asked_at < self._every_s():
            return
        if now - self._read_at >= self._cost_s / _SHARE:
            begun = time.perf_counter()
            found = self._client.due_or_cancelling() if with_cancelling else self._client.due()
            self._known = {run.id: run for run in found if run.state == "SCHEDULED"}
            self._cost_s, self._read_at = time.perf_counter() - begun, now
            if with_cancelling:
                self._cancelling, self._cancelling_at = [run for run in found if run.state != "SCHEDULED"], now
        else:
            self._known.update({run.id: run for run in self._client.due(now - self._read_at + _MARGIN_S)})
        if with_cancelling and now - self._cancelling_at >= _CANCELLING_EVERY_S:
            self._cancelling, self._cancelling_at = self._client.in_state("CANCELLING"), now
        self._asked_at = now

    def known(self, within_s: float) -> list[Run] | None:
        """Return what waited at the last reading and was not dropped; None where that is longer ago than `within_s`."""
        return list(self._known.values()) if self._clock() - self._asked_at <= within_s else None

    def put_back(self, run_id: str) -> None:
        """Look at the next reading for a run that waits again."""
        self._put_back.add(run_id)

    def drop(self, run_id: str) -> None:
        """Forget a run that waits no longer; where it does after all, the server says so again."""
        self._known.pop(run_id, None)
