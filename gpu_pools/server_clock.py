"""The clock of Prefect's server, which decides when a run is due."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_AGREE_S = 1.0  # an answer has its time in whole seconds, and takes a moment to arrive


class ServerClock:
    """What time it is for the server, by the dates of its answers.

    Where this host's clock agrees with them it is taken, as it is finer. A host whose clock is minutes ahead would
    start runs before they are due, and their processes would wait on their devices for the server's clock; one that is
    behind would let every run wait for so long.

    Args:
        clock: of this host, Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._ahead_s = clock, 0.0

    def note(self, answer: httpx.Response) -> None:
        """Look at the date of an answer; a hook of httpx."""
        try:
            told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, ValueError):  # a proxy may leave it out
            return
        ahead_s = self._clock() - told
        self._ahead_s = 0.0 if -_AGREE_S < ahead_s < 1 + _AGREE_S else ahead_s

    def now(self) -> float:
        """Return the server's time, Unix seconds, at most two seconds wrong."""
        return self._clock() - self._ahead_s

    def here(self, at: float) -> float:
        """Return a time of the server as this host's clock shows it, Unix seconds."""
        return at + self._ahead_s

    def date(self) -> datetime:
        """Return the server's time."""
        return datetime.fromtimestamp(self.now(), UTC)
