"""Writes predictions as tables while they come, so that memory does not grow."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.base.workspace import storage_errors
from tasks.inference.predictor import Answer, Named

TOP = 5
EDGES = ("left", "top", "right", "bottom")
"""Of a region, as shares of the image's width and height."""
ROTATION = ("rotation_w", "rotation_x", "rotation_y", "rotation_z")
"""Of a part in the nearest view, as a unit quaternion: from the frame of its mesh to that of the camera."""
CSV, PARQUET = "predictions.csv", "predictions.parquet"
_GROUP = 1024  # rows that go into the Parquet file at once
_MOST_ERRORS = 20  # kept for the summary; the table has all

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("time_s", pa.float64()),
        ("class", pa.string()),
        ("probability", pa.float64()),
        ("calibrated_confidence", pa.float64()),
        *((f"top{k}", pa.string()) for k in range(1, TOP + 1)),
        *((f"top{k}_probability", pa.float64()) for k in range(1, TOP + 1)),
        ("region", pa.int64()),
        *((name, pa.float64()) for name in EDGES),
        ("region_score", pa.float64()),
        ("nearest_view", pa.string()),
        *((name, pa.float64()) for name in ROTATION),
        ("seconds", pa.float64()),
        ("error", pa.string()),
    ]
)


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (C,) of logits (C,), softened by a temperature above 0.

    Source: Guo et al. 2017 (arXiv:1706.04599) sec. 4.2.
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def row_of(answer: Answer, classes: Sequence[str], temperature: float | None) -> dict[str, Any]:
    """Return the row of the table for an answer; what there is not is None.

    Args:
        answer: to one image.
        classes: C names, in the order of the logits.
        temperature: None: the model was not calibrated.
    """
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {"path": _text(answer.path), "time_s": answer.time_s, "seconds": answer.seconds}
    if answer.region is not None:
        row |= {"region": answer.number, "region_score": answer.region.score}
        row |= {name: getattr(answer.region, name) for name in EDGES}
    if answer.named is not None:
        return row | _named(answer.named)
    if answer.logits is None:
        return row | {"error": None if answer.error is None else _text(answer.error)}
    shares = softmax(answer.logits)
    order = np.argsort(-shares, kind="stable")[:TOP]
    for k, number in enumerate(order, 1):
        row |= {f"top{k}": _text(classes[number]), f"top{k}_probability": float(shares[number])}
    row |= {"class": row["top1"], "probability": row["top1_probability"]}
    if temperature is not None:
        row["calibrated_confidence"] = float(softmax(answer.logits, temperature).max())
    return row


def _named(named: Named) -> dict[str, Any]:
    """Return the cells of what a model of parts says."""
    cells: dict[str, Any] = {"class": _text(named.ranking[0][0]), "probability": named.ranking[0][1]}
    for k, (name, score) in enumerate(named.ranking[:TOP], 1):
        cells |= {f"top{k}": _text(name), f"top{k}_probability": score}
    cells["nearest_view"] = named.nearest
    return cells | (dict(zip(ROTATION, named.rotation, strict=True)) if named.rotation else {})


@dataclass(slots=True)
class Summary:
    """What the rows come to."""

    counts: Counter[str] = field(default_factory=Counter)  # class -> images
    n_images: int = 0  # the failed ones included
    n_failed: int = 0
    n_empty: int = 0  # images in which a detector found nothing
    n_answers: int = 0  # as many as images, but for a detector's regions
    errors: list[str] = field(default_factory=list)  # the first ones
    probability_sum: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Count a row."""
        self.n_images += row["region"] in {None, 0}
        if row["error"] is not None:
            self.n_failed += 1
            if len(self.errors) < _MOST_ERRORS:
                self.errors.append(row["error"])
            return
        if row["class"] is None:
            self.n_empty += 1
            return
        self.n_answers += 1
        self.counts[row["class"]] += 1
        self.probability_sum += row["probability"]

    @property
    def mean_probability(self) -> float | None:
        """Return the mean of the highest probability, None where nothing was answered."""
        return self.probability_sum / self.n_answers if self.n_answers else None


class TableWriter:
    """Writes predictions.csv and predictions.parquet row by row into an existing folder.

    Whoever needs them whole or not at all moves them when the block has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Open both files."""
        with storage_errors(self._folder):
            self._csv = (self._folder / CSV).open("w", newline="", encoding="utf-8")
            self._parquet = pq.ParquetWriter(self._folder / PARQUET, SCHEMA)
        self._writer = csv.DictWriter(self._csv, SCHEMA.names)
        self._writer.writeheader()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left and close both files."""
        with storage_errors(self._folder), self._csv, self._parquet:
            self._flush()

    def add(self, row: dict[str, Any]) -> None:
        """Write a row.

        Raises:
            StorageError: the disk is full.
        """
        with storage_errors(self._folder):
            self._writer.writerow(row)
            self._rows.append(row)
            if len(self._rows) >= _GROUP:
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows.clear()


def _text(name: str) -> str:
    r"""Return the name with bytes that are not UTF-8, which a file system allows, written as \x escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
