"""Removes the folders of runs that ended long ago, where `keep_files` asks for it."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from gpu_pools.placement.queues import parse_duration
from gpu_pools.prefect_client import PoolClient, Run
from gpu_pools.process import run_setup
from tasks.base.errors import ConfigError
from tasks.base.workspace import home, run_dir

logger = logging.getLogger("trainyard.worker")

KEEP = "keep_files"
"""Job variable: so long after a run's end its folder stays, 12h or 7d; without it, for good. MLflow keeps its part."""

_EVERY_S = 600.0
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
_GOING = ".removed-"


class Cleaner:
    """Call `look` as often as you like; about every ten minutes it does something.

    Args:
        client: knows when a run ended, and how long its files are kept.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, clock: Callable[[], float] = time.time) -> None:
        self._client, self._clock = client, clock
        self._looked = float("-inf")
        self._for_good: set[str] = set()

    def look(self) -> None:
        """Remove the folders that are due.

        Raises:
            httpx.HTTPError: the server does not answer; nothing is removed without its word.
        """
        now = self._clock()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        for run in self._client.by_id([name for name in _folders() if name not in self._for_good]).values():
            keep_s = self._kept_s(run)
            if keep_s is None:
                self._for_good.add(run.id)
            elif run.state in _ENDED and run.ended is not None and now - run.ended > keep_s:
                _remove(run)

    def _kept_s(self, run: Run) -> float | None:
        asked = run.job_variables.get(KEEP)
        try:
            return parse_duration(asked) if asked else None
        except ConfigError as exc:
            logger.warning("the files of run %s stay: %s: %s", run.id, KEEP, exc)
            return None


def _folders() -> Iterator[str]:
    """Yield the ids of runs with a folder here; what an earlier removal left half removed goes."""
    root = home() / "runs"
    for path in root.iterdir() if root.is_dir() else ():
        if path.name.startswith(_GOING):
            _erase(path)
            continue
        try:
            yield str(UUID(path.name))
        except ValueError:
            continue  # a folder that is not ours


def _remove(run: Run) -> None:
    folder = run_dir(run.id)
    lock = run_setup.lock_run(run.id)
    if lock is None:
        return  # it was put back into its queue, and begins
    try:
        gone = folder.with_name(f"{_GOING}{run.id}")
        folder.rename(gone)  # renamed first, so that nobody sees a half removed folder
    except FileNotFoundError:
        return  # another worker was faster
    finally:
        os.close(lock)
    _erase(gone)
    logger.info("the files of run %s (%s) are removed: it ended long enough ago", run.id, run.name)


def _erase(path: Path) -> None:
    def complain(_: object, name: str, exc: BaseException) -> None:
        if not isinstance(exc, FileNotFoundError):  # another worker removes it, too
            logger.warning("cannot remove %s: %s", name, exc)

    shutil.rmtree(path, onerror=lambda function, name, info: complain(function, name, info[1]))
