"""What a step asks and does about its end: time left, a request to stop, the way out."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from gpu_pools.hosts import shares
from gpu_pools.process.run_setup import DEADLINE, EXIT_STOPPED, STOP_FILE
from gpu_pools.stopping import asked
from tasks.base.errors import Interrupted, PutBack, StopAsked
from tasks.run.run_log import Logger


def time_left_s() -> float | None:
    """Return in how many seconds the worker will end this run; None: never."""
    deadline = os.environ.get(DEADLINE)
    return float(deadline) - time.time() if deadline else None


def stop_asked() -> bool:
    """Return whether this run is to save its state and end: the worker wants it to go on later, or a signal came."""
    path = os.environ.get(STOP_FILE)
    return asked() is not None or (path is not None and os.path.exists(path))


def exit_for_resume(why: StopAsked | None = None) -> None:
    """End this process at once: run and MLflow run stay as they are, until the worker starts the run again.

    Args:
        why: what has ended it, if anything was raised; after PutBack the run waits in its queue again.
    """
    if isinstance(why, PutBack):
        shares.put_back(str(why))
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)
    os._exit(EXIT_STOPPED)


@contextmanager
def ended_by_signal(log: Logger) -> Iterator[None]:
    """Once a signal has come, whatever ends the block is that signal.

    Raises:
        Interrupted: instead of StopAsked, which a state that was saved ends with, or of an error that came of the end.
    """
    try:
        yield
    except (StopAsked, Exception) as exc:  # raised again, unless a signal is behind it
        if asked() is None:
            raise
        log.info("%s", exc)
        raise Interrupted(str(exc)) from exc
