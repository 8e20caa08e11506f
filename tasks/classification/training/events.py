"""The events that a training yields, and the history of its epochs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.base.progress import Note
from tasks.training.events import BatchDone


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """What an epoch came to. Shares are in [0, 1], losses in nats; None: not defined for so few classes."""

    epoch: int
    total_epochs: int
    train_loss: float  # mean per image, of the loss that is minimised (smoothed, weighted, mixed)
    train_acc: float
    val_loss: float  # mean cross-entropy per image
    val_acc: float
    macro_f1: float
    micro_f1: float
    mAP: float
    top1_acc: float
    top3_acc: float | None
    top5_acc: float | None
    precision: float
    recall: float
    learning_rate: float  # of the last step
    best_acc: float  # highest val_acc so far
    is_best: bool  # this epoch's weights are the best so far
    seconds: float  # spent on the epoch, training and validation, in all processes that worked on it
    images_per_s: float | None = None  # trained in this epoch by the last process that worked on it
    wait_share: float | None = None  # of that time, waiting for data, in [0, 1]
    memory_mib: float | None = None  # most memory in use so far, of the GPU; on a CPU of the process
    notes: tuple[str, ...] = ()  # what a person should know: a halved batch, an early stop


@dataclass(frozen=True, slots=True)
class FilesRead:
    """Progress of a look at the files that a checkpoint is compared with."""

    part: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch, with its place in time; after a crash it may be trained again, with the same metrics."""

    metrics: EpochMetrics
    timestamp_ms: int  # when it ended, Unix time


Event = Note | FilesRead | BatchDone | EpochDone


def history_frame(history: Sequence[EpochDone]) -> pd.DataFrame:
    """Return one row per epoch, the columns of `EpochMetrics` and the time it ended."""
    rows = [{**dataclasses.asdict(row.metrics), "timestamp_ms": row.timestamp_ms} for row in history]
    return pd.DataFrame(rows).drop(columns=["notes"])


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the rows that `history_frame` wrote; what is not defined is None."""
    frame = pd.read_csv(path)
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]


def epoch_from(row: Mapping[str, Any]) -> EpochDone:
    """Return the epoch that `asdict` turned into plain values."""
    metrics = {**row["metrics"], "notes": tuple(row["metrics"]["notes"])}
    return EpochDone(EpochMetrics(**metrics), row["timestamp_ms"])
