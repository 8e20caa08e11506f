"""Shows the progress of a step as bars with the time left, where there is a terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gpu_pools.stopping import look
from tasks.base.progress import R, Steps, finish

console = Console(stderr=True)
"""Shared by bars and log lines, so that neither overwrites the other."""


class Bars:
    """Named bars; each is made at its first move and keeps the caption last given."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def move(self, name: str, done: int, total: int, caption: str = "") -> None:
        """Set the bar `name` to `done` of `total`."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, caption=caption)
        self._progress.update(self._tasks[name], completed=done, total=total, caption=caption)

    def watch(self, name: str, work: Steps[R]) -> R:
        """Do all of the work, the bar `name` following it, and return the result."""

        def moved(done: int, total: int) -> None:
            self.move(name, done, total)
            look()

        return finish(work, moved)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars for the block; without a terminal they stay unseen, and the log lines tell the story."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[caption]}"),
    )
    # The steps run inside Prefect's engine, whose log lines go through the same console; redirecting the standard
    # streams as well would hand other people's output to Rich's markup.
    with Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        yield Bars(progress)


def log_through_console() -> None:
    """Send log lines through the shared console, so that they stand above the bars; leave out MLflow's chatter."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, markup=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%X"))
    else:  # a file or a pipe: one line each, never cut at the width of a screen
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%X"))
    handler.addFilter(_worth_showing)
    root = logging.getLogger()  # Prefect's own loggers pass their lines up to it
    for old in [h for h in root.handlers if type(h).__name__ == "PrefectConsoleHandler"]:
        root.removeHandler(old)
        root.addHandler(handler)


SHOWN = "trainyard_shown"
"""The attribute of a log record whose text the terminal has already."""

_SAID_ELSEWHERE = (
    "View at ",  # the command says where to look, once
    "Finished in state Completed(",
    "Finished in state Failed(",
    # The error reaches the command, which shows it once; the run's page has it with its traceback.
    "Task run failed with exception",
    "Encountered exception during execution",
)


def _worth_showing(record: logging.LogRecord) -> bool:
    return not hasattr(record, SHOWN) and not record.getMessage().startswith(_SAID_ELSEWHERE)
