"""Hands each event of a detector's training to MLflow, the page and the terminal."""

import statistics
from typing import Any

from gpu_pools.slots.lease import report_progress
from tasks.recognition.dataset import name_of
from tasks.recognition.detector.training.events import EpochDone, EpochMetrics, FilesRead
from tasks.recognition.detector.training.scenes import joint_digest
from tasks.recognition.detector.training.session import DetectorSession
from tasks.run.recorder import Recorder
from tasks.tracking.mlflow_names import as_name
from tasks.training.events import BatchDone

TABLE_COLUMNS = ("epoch", "train_loss", "map50", "map", "learning_rate", "best_map")
"""Of an epoch, what the table on Prefect's page has room for."""

# EpochMetrics field -> MLflow key; what stands before the slash is the section of MLflow's charts.
METRIC_KEYS: dict[str, str] = {
    "epoch": "progress/epoch",
    "total_epochs": "progress/total_epochs",
    "train_loss": "loss/train",
    "map50": "map50/val",
    "map": "map/val",
    "best_map": "map/best",
    "learning_rate": "learning_rate/last",
    "images_per_s": "speed/images_per_s",
    "wait_share": "speed/data_wait_share",
    "memory_mib": "memory/peak_mib",
}


class DetectorRecorder(Recorder[DetectorSession, EpochDone]):
    """Hands each event of a training to those it concerns."""

    _caption = ""

    def can_describe(self, event: Any) -> bool:
        """Return true once the first look at the files is over."""
        return not isinstance(event, FilesRead) and len(self.session.scenes) == 2

    def describe(self) -> None:
        """Record the scenes that are trained and validated on."""
        contexts = {"train": "training", "val": "validation"}
        for name, context in contexts.items():
            scenes = self.session.scenes[name]
            profile = {"images": len(scenes), "boxes": sum(len(labels) for labels in scenes.labels)}
            where = self.session.dataset / "scenes" / name
            digest = joint_digest({name: scenes})
            self.tracker.input(name_of(self.session.dataset), str(where), digest, context=context, profile=profile)

    def handle(self, event: FilesRead | BatchDone | EpochDone) -> None:
        """Pass on progress or an epoch."""
        if isinstance(event, FilesRead):
            self.bars.move(f"read {event.subset}", event.done, event.total)
        elif isinstance(event, BatchDone):
            total = self.session.params.num_epochs * event.n_batches
            self.step_done((event.epoch - 1) * event.n_batches + event.batch, total, self._caption)
        else:
            self._handle_epoch(event.metrics)

    def _handle_epoch(self, metrics: EpochMetrics) -> None:
        self.show_new_rows()
        self._caption = (
            f"epoch {metrics.epoch}/{metrics.total_epochs}  loss {metrics.train_loss:.3f}  mAP@50 {metrics.map50:.3f}"
        )
        seconds = statistics.median(row.metrics.seconds for row in self.session.history)
        left = seconds * (metrics.total_epochs - metrics.epoch)
        report_progress(metrics.epoch, metrics.total_epochs, left)  # to those who wait for the device
        self.tracker.step_ended(metrics.epoch)
        self.log.info(epoch_line(metrics, left))

    def log_row(self, row: EpochDone) -> None:
        """Log the metrics of an epoch with the time it ended: losses by name, average precision of each part."""
        metrics = row.metrics
        values: dict[str, float | None] = {key: getattr(metrics, field) for field, key in METRIC_KEYS.items()}
        values |= {f"loss/train_{as_name(name)}": value for name, value in metrics.losses.items()}
        values |= {f"average_precision/val {as_name(name)}": value for name, value in metrics.per_class.items()}
        self.tracker.metrics(values, metrics.epoch, row.timestamp_ms)

    def table_row(self, row: EpochDone) -> dict[str, Any]:
        """Return the epoch's row of the page's table."""
        values = {field: getattr(row.metrics, field) for field in TABLE_COLUMNS}
        return {field: round(value, 5) if isinstance(value, float) else value for field, value in values.items()}


def epoch_line(metrics: EpochMetrics, left_s: float) -> str:
    """Return the line the log has for an epoch."""
    star = " (best)" if metrics.is_best else ""
    pace = "" if metrics.images_per_s is None else f" ({metrics.images_per_s:.0f} images/s)"
    return (
        f"epoch {metrics.epoch}/{metrics.total_epochs}: loss {metrics.train_loss:.4f}; mAP@50 {metrics.map50:.3f}, "
        f"mAP@50:95 {metrics.map:.3f}{star}; {metrics.seconds:.1f} s{pace}, about {left_s:.0f} s left"
    )
