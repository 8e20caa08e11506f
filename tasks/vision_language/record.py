"""Writes into MLflow what a gate did, while it serves: requests, refusals, tokens, times, the queue."""

import statistics
import time
from typing import TYPE_CHECKING

from tasks.vision_language.gate.counters import LEFT, Counters, Totals
from tasks.vision_language.gate.request_slots import RequestSlots

if TYPE_CHECKING:
    from tasks.tracking.tracker import Tracker

EVERY_S = 30.0
_STEP_KEY = "requests/answered"  # in every row; its steps say how many there were before a restart


class Record:
    """Rows of figures; none while nothing happens.

    Args:
        counters, slots: of the gate.
        tracker: gets the rows, numbered on from those of the attempts before a restart.
    """

    def __init__(self, counters: Counters, slots: RequestSlots, tracker: "Tracker") -> None:
        self._counters, self._slots, self._tracker = counters, slots, tracker
        self._step = max(tracker.logged_steps(_STEP_KEY), default=-1) + 1
        self._at, self._before = time.monotonic(), counters.totals()
        self._queue: tuple[int, ...] = ()

    def write(self) -> None:
        """Write what is news since the last row.

        Raises:
            StorageError: the journal cannot be written.
        """
        now, totals = time.monotonic(), self._counters.totals()
        queue = (self._slots.taken, self._slots.waiting, self._slots.limit)
        if (totals, queue) != (self._before, self._queue):
            rate = (totals.new_tokens - self._before.new_tokens) / (now - self._at)
            self._tracker.metrics({**_row(totals, queue, rate), **self._times()}, self._step)
            self._step += 1
        self._at, self._before, self._queue = now, totals, queue

    def _times(self) -> dict[str, float | None]:
        times = sorted(self._counters.first_times)
        self._counters.first_times.clear()
        return {
            "first_token_s/median": statistics.median(times) if times else None,
            "first_token_s/p95": times[int(0.95 * (len(times) - 1) + 0.5)] if times else None,
        }


def _row(totals: Totals, queue: tuple[int, int, int], rate: float) -> dict[str, float | None]:
    """Return a row.

    Args:
        totals: so far.
        queue: requests that run, that wait, and that may run at once.
        rate: new tokens a second since the last row.
    """
    answers, (running, waiting, limit) = totals.requests, queue
    known = {"200", "429", LEFT}
    return {
        _STEP_KEY: answers.get("200", 0),
        "requests/busy": answers.get("429", 0),
        "requests/left": answers.get(LEFT, 0),
        "requests/refused_or_failed": sum(n for answer, n in answers.items() if answer not in known),
        "tokens/prompt": totals.prompt_tokens,
        "tokens/generated": totals.new_tokens,
        "tokens/per_second": rate,
        "queue/running": running,
        "queue/waiting": waiting,
        "queue/limit": limit,
    }
