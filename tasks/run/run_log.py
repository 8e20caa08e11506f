"""The log of a step, which Prefect shows, and its copy in the folder of the run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from tasks.base.workspace import storage_errors

if TYPE_CHECKING:
    pass


Logger = logging.Logger | logging.LoggerAdapter[Any]


def logger() -> Logger:
    """Return the running step's log, which Prefect shows; a plain one where a step is called as a function."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("trainyard")


class _RunLog(logging.FileHandler):
    """A log file that says once, not with a traceback for every line, that it cannot be written."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # logging calls it so
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(f"lines are missing in {self.baseFilename}: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # told above
            super().close()


@contextmanager
def log_file(log: Logger, path: Path) -> Iterator[None]:
    """Copy the step's log lines to a file for the block."""
    target = log.logger if isinstance(log, logging.LoggerAdapter) else log
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    target.addHandler(handler)
    try:
        yield
    finally:
        target.removeHandler(handler)
        handler.close()
