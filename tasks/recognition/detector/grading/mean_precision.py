"""Computes mean average precision, batch by batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from tasks.recognition.detector.networks import MAX_FOUND

# It announces each evaluation.
logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precision, shares in [0, 1]; of nothing to be found it is 0."""

    map50: float
    map: float  # mean over IoU 0.5, 0.55 ... 0.95
    recall: float  # most that MAX_FOUND detections of an image reach, mean over the same
    per_class: dict[str, float]  # like `map`, of the parts that were there to be found


class PrecisionMeter:
    """Takes detections and truth of one batch after the other; holds numbers only, at most `MAX_FOUND` boxes an image.

    Args:
        classes: names of the parts.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = list(classes)
        self._metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
        self._metric.warn_on_many_detections = False
        self._seen: set[int] = set()

    def update(self, found: Sequence[dict[str, Tensor]], truth: Sequence[tuple[Any, Any, Any]]) -> None:
        """Add images.

        Args:
            found: as `Detector.find` gives it.
            truth: per image boxes (M, 4) in the same pixels, class numbers (M,) and whether each is a crowd (M,).
        """
        rows = [{name: value[:MAX_FOUND].cpu() for name, value in row.items()} for row in found]
        self._metric.update(rows, [_row(*each) for each in truth])
        self._seen |= {int(label) for _, labels, crowds in truth for label in labels[~crowds]}

    def compute(self) -> Precision:
        """Return what all images so far came to."""
        if not self._seen:
            return Precision(0.0, 0.0, 0.0, {})
        result = self._metric.compute()
        per_class = _by_class(result["classes"], result["map_per_class"])
        known = {self._classes[number]: per_class.get(number, 0.0) for number in sorted(self._seen)}
        map50, whole, recall = (max(0.0, float(result[name])) for name in ("map_50", "map", f"mar_{MAX_FOUND}"))
        return Precision(map50, whole, recall, known)


def _by_class(classes: Tensor, values: Tensor) -> dict[int, float]:
    pairs = zip(classes.reshape(-1).tolist(), values.reshape(-1).tolist(), strict=True)
    return {int(number): max(0.0, value) for number, value in pairs}


def _row(boxes: NDArray[Any], labels: NDArray[Any], crowds: NDArray[Any]) -> dict[str, Tensor]:
    return {
        "boxes": torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.as_tensor(labels, dtype=torch.int64),
        "iscrowd": torch.as_tensor(crowds, dtype=torch.int64),
    }
