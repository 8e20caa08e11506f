"""Stops the workers: they start nothing more and wait for their runs, or stop them at once."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from deployments.stack.child import Child
from deployments.stack.pidfile import Say
from tasks.base.workspace import home

_TICK_S = 0.5
_STEPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL)
"""What a worker gets: wait for your runs; stop them at their next checkpoint; leave them alone."""


def drain(
    workers: Mapping[str, Child],
    asked: int,
    wait: Callable[[float], int | None],
    meanwhile: Callable[[], None],
    say: Say,
) -> None:
    """Return when the workers have ended.

    Args:
        workers: by name.
        asked: the signal that asked for the end; SIGUSR1 is in a hurry at once.
        wait: returns after so many seconds, or with a signal that came: each SIGINT (Ctrl-C) is one step further.
        meanwhile: called twice a second: the runs need the services until they end.
        say: is told how many runs there are.
    """
    step, said = -1, None
    wanted = 1 if asked == signal.SIGUSR1 else 0
    while any(child.alive for child in workers.values()):
        if wanted != step:
            step = wanted
            for child in workers.values():
                child.signal(_STEPS[step])
        if (told := _state(step, n_runs(workers))) != said:
            said = told
            say(said)
        meanwhile()
        match wait(_TICK_S):
            case signal.SIGINT:
                wanted = min(step + 1, len(_STEPS) - 1)
            case signal.SIGUSR1:
                wanted = max(step, 1)


def _state(step: int, n_runs: int) -> str:
    if not n_runs:
        return "the workers end: no run has a process here"
    runs = f"{n_runs} run{'s' * (n_runs > 1)}"
    if step == 0:
        hurry = "`yard down --now`, or Ctrl-C once more, stops at the next checkpoint, to go on later"
        return f"waits for {runs} to end; {hurry}"
    if step == 1:
        return f"stops {runs} at the next checkpoint; Ctrl-C once more leaves them alone"
    return f"leaves {runs} alone; the next worker takes over"


def n_runs(workers: Mapping[str, Child]) -> int:
    """Return how many runs have a process that one of these workers started, by their ledgers."""
    folders = (home() / "worker" / name.replace("/", "-") for name in workers)
    return sum(_is_running(path) for folder in folders for path in folder.glob("*.json"))


def _is_running(entry: Path) -> bool:
    try:
        return '"phase": "running"' in entry.read_text()
    except FileNotFoundError:
        return False  # it has ended just now
