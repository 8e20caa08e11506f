"""The events that a training yields, and the history of its epochs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.base.progress import Note, Progress
from tasks.training.events import BatchDone, EpochBasics, EpochDone


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics(EpochBasics):
    """What an epoch came to. Shares are in [0, 1], losses in nats; None: not defined for so few classes."""

    train_acc: float
    val_loss: float  # mean cross-entropy per image; the loss that is minimised may be smoothed, weighted and mixed
    val_acc: float
    macro_f1: float
    micro_f1: float
    mAP: float
    top1_acc: float
    top3_acc: float | None
    top5_acc: float | None
    precision: float
    recall: float
    best_acc: float  # highest val_acc so far


Event = Note | Progress | BatchDone | EpochDone[EpochMetrics]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a history.csv, one for each epoch; what is not defined is None."""
    frame = pd.read_csv(path)
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]
