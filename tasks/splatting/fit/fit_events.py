"""The events that a fit yields, and the history of its measurements."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.base.progress import Note, Progress

End = Literal["finished", "deadline"]


@dataclass(frozen=True, slots=True)
class StepsDone:
    """Progress; yielded every few steps. The fit's state is whole at every event."""

    step: int  # steps done, from 1
    max_steps: int
    loss: float  # mean of the steps since the last event
    steps_per_s: float
    n_gaussians: int
    seconds_left: float  # to the last step, at this speed


@dataclass(frozen=True, slots=True)
class Preview:
    """An image that was drawn, left, and the one that was taken, right."""

    name: str
    pixels: NDArray[np.uint8]  # (H, 2 W, 3) RGB


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a fit has come to. None: no image is held out."""

    step: int  # steps done
    train_loss: float  # mean of the steps since the last measurement
    psnr: float | None  # dB, mean over held-out images
    ssim: float | None  # in [-1, 1], mean over held-out images
    l1: float | None  # in [0, 1], mean over held-out images
    n_gaussians: int
    steps_per_s: float  # since the start, measuring left out
    memory_bytes: int  # most that was in use: of the GPU, without one of the process
    opacity_mean: float  # in [0, 1]
    scale_median: float  # world units
    seconds: float  # spent on the fit so far, measuring included, in all processes that worked on it


@dataclass(frozen=True, slots=True)
class MeasurementDone:
    """A measurement with images of up to four views to look at."""

    metrics: Measurement
    previews: tuple[Preview, ...]
    timestamp_ms: int  # when it was taken, Unix time; 0 until somebody with a clock says


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit ended with."""

    ended: End
    metrics: Measurement
    flagged: str | None  # a sentence, when the result is worse than `min_psnr`


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a fit."""

    result: FitResult


Event = Note | Progress | StepsDone | MeasurementDone | Done


def row_of(measured: MeasurementDone) -> dict[str, Any]:
    """Return a measurement without its images, as plain values."""
    return {**dataclasses.asdict(measured.metrics), "timestamp_ms": measured.timestamp_ms}


def measured_from(row: Mapping[str, Any]) -> MeasurementDone:
    """Return the measurement that `row_of` turned into plain values."""
    values = dict(row)
    stamp = values.pop("timestamp_ms")
    return MeasurementDone(Measurement(**values), (), stamp)


def history_csv(history: Sequence[MeasurementDone]) -> str:
    """Return one line per measurement under a line of names; empty: not measured."""
    out = io.StringIO()
    names = [*(field.name for field in dataclasses.fields(Measurement)), "timestamp_ms"]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row_of(measured) for measured in history)
    return out.getvalue()
