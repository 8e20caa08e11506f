"""What every step uses: the folder of its run, its name, and how far it is, for those who wait."""

import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from gpu_pools.process.run_process import MARK
from gpu_pools.slots.lease import report_progress
from tasks.base.errors import ConfigError
from tasks.base.workspace import run_dir, run_path

if TYPE_CHECKING:
    pass


def run_key() -> str:
    """Return the name of the running flow's folder under runs/."""
    return str(flow_run.id)


def given_name() -> str | None:
    """Return the name a person gave the running flow; None: it has two words that Prefect made up."""
    name = flow_run.name
    return None if not name or invented(str(name)) else str(name)


def name_asked_for() -> str | None:
    """Return the name that a person wants for the running flow: in its parameters, or its own; None: neither."""
    return getattr(flow_run.parameters.get("track"), "run_name", None) or given_name()


def invented(name: str) -> bool:
    """Return whether a run's name is one of those Prefect gives to what nobody named."""
    words = name.split("-")
    return len(words) == 2 and all(word in _words() for word in words)


@cache
def _words() -> frozenset[str]:
    from coolname import data

    config: Any = data.config
    return frozenset(word for part in config.values() if part["type"] == "words" for word in part["words"])


class ProgressReporter:
    """Tells those who wait for the run's device how far it is and about how long it will take, now and then.

    Args:
        unit: what is counted.
        every_s: seconds between two words at least.
    """

    def __init__(self, unit: str, every_s: float = 2.0) -> None:
        self._unit, self._every_s = unit, every_s
        self._first: tuple[float, int] | None = None
        self._said = float("-inf")

    def report(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done.

        Raises:
            StorageError: the slot's record cannot be written.
        """
        now = time.monotonic()
        # The pace is that since the first ones: until then models were loaded and processes started.
        began, before = self._first = self._first or (now, done)
        if now - self._said < self._every_s:
            return
        self._said = now
        pace = (now - began) / (done - before) if done > before else None
        report_progress(done, total, None if pace is None else pace * (total - done), self._unit)


def step_dir(run: str | None, stage: str) -> Path:
    """Return the folder of a stage, below that of the run named, else of the running flow.

    Raises:
        ConfigError: the name could lead out of the folder of all runs.
    """
    key = run or run_key()
    if run_path(key) is None:
        raise ConfigError(f"found the run {key!r}, need letters, digits, '_', '-' and '.'")
    if MARK in os.environ and key != run_key():
        link = run_dir(run_key()) / "files"  # so that the files of this stage are found from its own run
        link.unlink(missing_ok=True)
        link.symlink_to(run_dir(key))
    return run_dir(key) / stage


def finished_training(run: str, finished: str, stage: str = "training") -> Path:
    """Return the folder of a run's training that has ended.

    Args:
        run: whose training it is.
        finished: the file that a training ends with.
        stage: its folder, below that of the run.

    Raises:
        ConfigError: it has not, or there is none.
    """
    folder = step_dir(run, stage)
    if not (folder / finished).is_file():
        raise ConfigError(f"found no finished training in {folder}, need one to go on from")
    return folder


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
