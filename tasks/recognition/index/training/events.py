"""The events that the training of an embedding yields."""

from dataclasses import dataclass

from tasks.base.progress import Note
from tasks.training.events import BatchDone, EpochBasics, EpochDone


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics(EpochBasics):
    """What an epoch came to. Shares are in [0, 1]; the loss is in nats, the margin included."""

    recall_1: float  # share of val views whose nearest view is of the same part
    recall_5: float  # ... of whose five nearest views one is
    val_gap: float  # mean cosine to the nearest view of the same part, less that to the nearest of another
    best_recall_1: float  # highest so far


Event = Note | BatchDone | EpochDone[EpochMetrics]
