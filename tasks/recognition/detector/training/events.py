"""The events that the training of a detector yields, and the history of its epochs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.base.progress import Note
from tasks.training.events import BatchDone


@dataclass(frozen=True, slots=True)
class FilesRead:
    """Progress of the first look at the files."""

    subset: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """What an epoch came to, validated on scenes that are not trained on."""

    epoch: int
    total_epochs: int
    losses: dict[str, float]  # mean per image, each part of what is minimised
    train_loss: float  # their sum
    map50: float  # mean average precision at IoU 0.5, in [0, 1]
    map: float  # its mean over IoU 0.5 to 0.95, in [0, 1]
    per_class: dict[str, float]  # average precision over IoU 0.5 to 0.95, of the parts on the scenes
    learning_rate: float  # of the last step
    best_map: float  # highest `map` so far
    is_best: bool
    seconds: float  # spent on the epoch, training and validation, in all processes that worked on it
    images_per_s: float | None = None  # trained in this epoch by the last process that worked on it
    wait_share: float | None = None  # of that time, waiting for data, in [0, 1]
    memory_mib: float | None = None  # most memory in use so far, of the GPU; on a CPU of the process
    notes: tuple[str, ...] = ()  # what a person should know: a halved batch, an early stop


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch, with its place in time; after a crash it may be trained again, with the same metrics."""

    metrics: EpochMetrics
    timestamp_ms: int  # when it ended, Unix time


Event = Note | FilesRead | BatchDone | EpochDone


def history_frame(history: Sequence[EpochDone]) -> pd.DataFrame:
    """Return one row per epoch: the numbers of `EpochMetrics`, its losses and parts in columns of their own."""
    rows = []
    for row in history:
        values = dataclasses.asdict(row.metrics)
        named = {f"loss_{name}": value for name, value in values.pop("losses").items()}
        named |= {f"ap_{name}": value for name, value in values.pop("per_class").items()}
        values.pop("notes")
        rows.append({**values, **named, "timestamp_ms": row.timestamp_ms})
    return pd.DataFrame(rows)


def epoch_from(row: Mapping[str, Any]) -> EpochDone:
    """Return the epoch that `asdict` turned into plain values."""
    metrics = {**row["metrics"], "notes": tuple(row["metrics"]["notes"])}
    return EpochDone(EpochMetrics(**metrics), row["timestamp_ms"])
