"""Sends what ended runs of this home have kept for MLflow, with growing pauses while it is away."""

import logging
import os
import subprocess
from collections.abc import Callable, Collection

from gpu_pools.process import run_process
from tasks.base.startup import module_command
from tasks.base.workspace import home

logger = logging.getLogger("trainyard.worker")

COMMAND = tuple(module_command("deployments.cli.app", "sync"))
_AGAIN_S, _LONGEST_S = 30.0, 900.0
_UNASKED_S = 600.0  # runs of `yard run` end without a word to the worker


class CatchUp:
    """Calls `yard sync` at the worker's start, when runs have ended, every ten minutes, and again while it fails.

    In a process of its own: it takes MLflow's library, which a worker does not load.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._due = float("-inf")
        self._pause_s = 0.0  # 0: the last call has left nothing
        self._active: set[str] = set()

    def look(self, active: Collection[str]) -> None:
        """Begin what is due, and see whether it has ended.

        Args:
            active: ids of the runs that have not ended.
        """
        now = self._clock()
        if self._active - set(active) and not self._pause_s:
            self._due = now
        self._active = set(active)
        if self._process is None:
            if now >= self._due:
                log = home() / "logs" / "sync.log"
                self._process = run_process.start(COMMAND, os.environ, home(), log, ())
                self._due = float("inf")
        elif (code := self._process.poll()) is not None:
            self._process = None
            self._note(code, now)

    def close(self) -> None:
        """End what is under way: who comes next goes on with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _note(self, code: int, now: float) -> None:
        if code != 0 and not self._pause_s:
            logger.warning("not all of what runs have kept for MLflow could be sent; it is tried again: see sync.log")
        self._pause_s = min(max(2 * self._pause_s, _AGAIN_S), _LONGEST_S) if code else 0.0
        self._due = min(self._due, now + (self._pause_s or _UNASKED_S))
