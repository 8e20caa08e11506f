"""Does work every so many seconds in a loop that turns more often."""

from collections.abc import Callable


class Periodic:
    """Calls `work` where its last call without an error is `every_s` seconds ago; the first time at once.

    Args:
        clock: seconds.
    """

    def __init__(self, work: Callable[[], None], every_s: float, clock: Callable[[], float]) -> None:
        self._work, self._every_s, self._clock = work, every_s, clock
        self._done_at = float("-inf")

    def __call__(self) -> None:
        """Do the work if it is due."""
        now = self._clock()
        if now - self._done_at >= self._every_s:
            self._work()
            self._done_at = now
