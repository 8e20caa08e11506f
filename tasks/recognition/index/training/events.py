"""The events that the training of an embedding yields, and its history."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.base.progress import Note
from tasks.training.events import BatchDone


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """What an epoch came to. Shares are in [0, 1]."""

    epoch: int
    total_epochs: int
    train_loss: float  # mean per view, in nats, the margin included
    recall_1: float  # share of val views whose nearest view is of the same part
    recall_5: float  # ... of whose five nearest views one is
    val_gap: float  # mean cosine to the nearest view of the same part, less that to the nearest of another
    learning_rate: float  # of the last step
    best_recall_1: float  # highest so far
    is_best: bool  # this epoch's weights are the best so far
    seconds: float  # spent on the epoch, training and validation
    images_per_s: float | None = None
    wait_share: float | None = None  # of the time of training, waiting for data, in [0, 1]
    memory_mib: float | None = None  # most memory in use so far
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch, with its place in time; after a crash it may be trained again, with the same metrics."""

    metrics: EpochMetrics
    timestamp_ms: int  # when it ended, Unix time


Event = Note | BatchDone | EpochDone


def history_frame(history: Sequence[EpochDone]) -> pd.DataFrame:
    """Return one row per epoch, the columns of `EpochMetrics` and the time it ended."""
    rows = [{**dataclasses.asdict(row.metrics), "timestamp_ms": row.timestamp_ms} for row in history]
    return pd.DataFrame(rows).drop(columns=["notes"])


def epoch_from(row: Mapping[str, Any]) -> EpochDone:
    """Return the epoch that `asdict` turned into plain values."""
    metrics = {**row["metrics"], "notes": tuple(row["metrics"]["notes"])}
    return EpochDone(EpochMetrics(**metrics), row["timestamp_ms"])
