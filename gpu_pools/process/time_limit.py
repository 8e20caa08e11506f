"""The time limit of a run in a person's own process, where no worker looks after it."""

import os
import signal
import threading
import time
from typing import Self

from gpu_pools.placement.queues import duration_text
from gpu_pools.process.run_setup import DEADLINE


class TimeLimit:
    """Sends this process SIGTERM when the time is over, while the `with` block runs.

    Args:
        seconds: from the beginning of the block on; None: never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._is_over = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        if self._seconds is not None:
            os.environ[DEADLINE] = f"{time.time() + self._seconds:.0f}"  # for what can end well before
            self._timer = threading.Timer(self._seconds, self._end)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def said(self) -> str:
        """Return what to say of a run whose time is over; empty where it is not."""
        if self._seconds is None or not self._is_over:
            return ""
        return f"stopped after {duration_text(self._seconds)}, its time limit; what it saved is kept"

    def _end(self) -> None:
        self._is_over = True
        os.kill(os.getpid(), signal.SIGTERM)
