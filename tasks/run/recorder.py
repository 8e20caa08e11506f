"""Runs a training to its end, and hands its events to log, page, terminal and MLflow."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gpu_pools.slots.slot_meter import batch_done
from tasks.base.progress import Note
from tasks.run.display import Bars
from tasks.run.prefect_page import Page
from tasks.run.run_log import Logger
from tasks.tracking.tracker import Tracker


class Training(Protocol):
    """What a recorder needs of a training in its folder."""

    folder: Path
    history: list[Any]

    @property
    def finished(self) -> bool:
        """Whether the folder holds the finished training."""

    def load_finished(self) -> None:
        """Take the history from the folder of a finished training."""

    def run(self) -> Iterator[Any]:
        """Train to the end, yielding events."""


T = TypeVar("T", bound=Training)
R = TypeVar("R")


class Recorder(ABC, Generic[T, R]):
    """Hands each event of a training to those it concerns.

    Args:
        session: the training; its history holds rows of type R.
        tracker: its MLflow run.
        page: its page in Prefect.
        bars: of the terminal.
        log: of the step.
    """

    def __init__(self, session: T, tracker: Tracker, page: Page, bars: Bars, log: Logger) -> None:
        self.session, self.tracker, self.page, self.bars, self.log = session, tracker, page, bars, log
        self._n_shown = 0  # rows logged and in the table
        self._described = False

    def run(self) -> None:
        """Run the training to its end, every row of its history going to MLflow, the page and the terminal."""
        if self.session.finished:
            self.log.info("the training in %s is finished", self.session.folder)
            self.session.load_finished()
        else:
            for event in self.session.run():
                self._take(event)
        # Rows that a crash kept from MLflow; the tracker leaves out what is logged already.
        self._log_rows(self.session.history)

    def _take(self, event: Any) -> None:
        if not self._described and self.can_describe(event):
            self.describe()
            self._described = True
        if isinstance(event, Note):
            self.log.info(event.text)
        else:
            self.handle(event)

    def step_done(self, done: int, total: int, caption: str) -> None:
        """Show that `done` of `total` optimiser steps are done."""
        batch_done()
        self.page.progress(done / total)
        self.bars.move("train", done, total, caption)

    def show_new_rows(self) -> None:
        """Log the rows that are new and add them to the page's table.

        After a restart the table is a new one, and a row may have been saved but not logged before the kill.
        """
        new = self.session.history[self._n_shown :]
        self._log_rows(new)
        for row in new:
            self.page.row(self.table_row(row))
        self._n_shown = len(self.session.history)

    def _log_rows(self, rows: Iterable[R]) -> None:
        for row in rows:
            self.log_row(row)

    def can_describe(self, event: Any) -> bool:
        """Return whether the data can be described now, before this event."""
        return True

    @abstractmethod
    def describe(self) -> None:
        """Record what is trained on."""

    @abstractmethod
    def handle(self, event: Any) -> None:
        """Pass on an event that is no note."""

    @abstractmethod
    def log_row(self, row: R) -> None:
        """Log the metrics of a row of the history."""

    @abstractmethod
    def table_row(self, row: R) -> dict[str, Any]:
        """Return a row of the page's table."""
