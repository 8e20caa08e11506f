"""Hands each event of a detector's training to MLflow, the page and the terminal."""

from typing import Any

from tasks.base.progress import Progress
from tasks.recognition.dataset import name_of
from tasks.recognition.detector.training.events import EpochMetrics
from tasks.recognition.detector.training.scenes import joint_digest
from tasks.recognition.detector.training.session import DetectorSession
from tasks.tracking.mlflow_names import as_name
from tasks.training.recorder import EpochRecorder

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
}


class DetectorRecorder(EpochRecorder[DetectorSession, EpochMetrics]):
    """What a detector's training tells."""

    KEYS = METRIC_KEYS

    def can_describe(self, event: Any) -> bool:
        """Return true once the first look at the files is over."""
        return not isinstance(event, Progress) and len(self.session.scenes) == 2

    def describe(self) -> None:
        """Record the scenes that are trained and validated on."""
        contexts = {"train": "training", "val": "validation"}
        for name, context in contexts.items():
            scenes = self.session.scenes[name]
            profile = {"images": len(scenes), "boxes": sum(len(labels) for labels in scenes.labels)}
            where = self.session.dataset / "scenes" / name
            digest = joint_digest({name: scenes})
            self.tracker.input(name_of(self.session.dataset), str(where), digest, context=context, profile=profile)

    def values(self, metrics: EpochMetrics) -> dict[str, float | None]:
        """Return the metrics of an epoch: also losses by name, and the average precision of each part."""
        losses = {f"loss/train_{as_name(name)}": value for name, value in metrics.losses.items()}
        parts = {f"average_precision/val {as_name(name)}": value for name, value in metrics.per_class.items()}
        return super().values(metrics) | losses | parts

    def caption(self, metrics: EpochMetrics) -> str:
        """Return loss and mean average precision."""
        return f"loss {metrics.train_loss:.3f}  mAP@50 {metrics.map50:.3f}"

    def text(self, metrics: EpochMetrics) -> str:
        """Return loss and mean average precisions."""
        return f"loss {metrics.train_loss:.4f}; mAP@50 {metrics.map50:.3f}, mAP@50:95 {metrics.map:.3f}{metrics.star}"
