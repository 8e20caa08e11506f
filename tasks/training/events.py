"""The events that every training yields."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Position after an optimiser step."""

    epoch: int
    batch: int  # batches of this epoch that are trained, from 1
    n_batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBasics:
    """What every training says of an epoch."""

    epoch: int
    total_epochs: int
    train_loss: float  # mean per image, of the loss that is minimised
    learning_rate: float  # of the last step
    is_best: bool  # this epoch's weights are the best so far
    seconds: float  # spent on the epoch, training and validation, in all processes that worked on it
    images_per_s: float | None = None  # trained in this epoch by the last process that worked on it
    wait_share: float | None = None  # of that time, waiting for data, in [0, 1]
    memory_mib: float | None = None  # most memory in use so far, of the GPU; on a CPU of the process
    notes: tuple[str, ...] = ()  # what a person should know: a halved batch, an early stop

    @property
    def star(self) -> str:
        """Return what lines of text mark the best epoch so far with."""
        return " (best)" if self.is_best else ""


M = TypeVar("M", bound=EpochBasics)


@dataclass(frozen=True, slots=True)
class EpochDone(Generic[M]):
    """An epoch, with its place in time; after a crash it may be trained again, with the same metrics."""

    metrics: M
    timestamp_ms: int  # when it ended, Unix time


def epoch_from(row: Mapping[str, Any], kind: type[M]) -> EpochDone[M]:
    """Return the epoch that `asdict` turned into plain values."""
    metrics = {**row["metrics"], "notes": tuple(row["metrics"]["notes"])}
    return EpochDone(kind(**metrics), row["timestamp_ms"])


def columns_of(metrics: EpochBasics) -> dict[str, Any]:
    """Return the metrics of an epoch by name, as a table has them: without the notes."""
    values = dataclasses.asdict(metrics)
    del values["notes"]
    return values
