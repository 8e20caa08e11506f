"""Hands the events of a training of several epochs to log, page, terminal and MLflow."""

import dataclasses
import statistics
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from gpu_pools.slots.lease import report_progress
from tasks.base.progress import Progress
from tasks.run.recorder import Recorder
from tasks.training.events import BatchDone, EpochBasics, EpochDone
from tasks.training.session import FolderSession

T = TypeVar("T", bound=FolderSession[Any, Any, Any])
M = TypeVar("M", bound=EpochBasics)

# How fast it goes; beside the others in MLflow, not in the table.
PACE_KEYS: dict[str, str] = {
    "images_per_s": "speed/images_per_s",
    "wait_share": "speed/data_wait_share",
    "memory_mib": "memory/peak_mib",
}


class EpochRecorder(Recorder[T, EpochDone[M]]):
    """Hands each event of a training to those it concerns."""

    KEYS: Mapping[str, str]
    """Field of the metrics -> MLflow key; what stands before the slash is the section of MLflow's charts."""
    IMAGES = "images"
    """What is trained on, in messages."""
    _caption = ""

    @abstractmethod
    def caption(self, metrics: M) -> str:
        """Return what stands beside the terminal's bar after an epoch, in a few words."""

    @abstractmethod
    def text(self, metrics: M) -> str:
        """Return the part of the log's line that is about losses and grades."""

    def values(self, metrics: M) -> dict[str, float | None]:
        """Return what MLflow gets of an epoch, by key."""
        fields = dataclasses.asdict(metrics)
        return {key: fields[name] for name, key in {**self.KEYS, **PACE_KEYS}.items()}

    def handle(self, event: Progress | BatchDone | EpochDone[M]) -> None:
        """Pass on progress or an epoch."""
        if isinstance(event, Progress):
            self.bars.move(event.work, event.done, event.total)
        elif isinstance(event, BatchDone):
            total = self.session.params.num_epochs * event.n_batches
            self.step_done((event.epoch - 1) * event.n_batches + event.batch, total, self._caption)
        else:
            self._handle_epoch(event.metrics)

    def _handle_epoch(self, metrics: M) -> None:
        self.show_new_rows()
        self._caption = f"epoch {metrics.epoch}/{metrics.total_epochs}  {self.caption(metrics)}"
        seconds = statistics.median(row.metrics.seconds for row in self.session.history)
        left = seconds * (metrics.total_epochs - metrics.epoch)
        report_progress(metrics.epoch, metrics.total_epochs, left)  # to those who wait for the device
        self.tracker.step_ended(metrics.epoch)
        self.log.info("%s", self.epoch_line(metrics, left))

    def epoch_line(self, metrics: M, left_s: float) -> str:
        """Return the line the log has for an epoch."""
        pace = "" if metrics.images_per_s is None else f" ({metrics.images_per_s:.0f} {self.IMAGES}/s)"
        return (
            f"epoch {metrics.epoch}/{metrics.total_epochs}: {self.text(metrics)}; {metrics.seconds:.1f} s{pace}, "
            f"about {left_s:.0f} s left"
        )

    def log_row(self, row: EpochDone[M]) -> None:
        """Log the metrics of an epoch, with the time it ended."""
        self.tracker.metrics(self.values(row.metrics), row.metrics.epoch, row.timestamp_ms)

    def table_row(self, row: EpochDone[M]) -> dict[str, Any]:
        """Return the epoch's row of the page's table."""
        fields = dataclasses.asdict(row.metrics)
        return {name: round(fields[name], 5) if isinstance(fields[name], float) else fields[name] for name in self.KEYS}
