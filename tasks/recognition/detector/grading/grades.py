"""Grades what a detector found on a subset: average precision, recall and confusion of each part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.recognition.detector.finding import Truth
from tasks.recognition.detector.grading.detections import Detections
from tasks.recognition.detector.grading.matching import Curve, confusion, curves
from tasks.recognition.detector.grading.mean_precision import PrecisionMeter

_UNIT = 1000  # sides of images, for sizes in COCO's sense; they are not told apart here


@dataclass(frozen=True, slots=True)
class PartGrades:
    """How well one part is found; shares in [0, 1], None where there was none to be found."""

    ap50: float | None  # average precision at IoU 0.5
    ap: float | None  # mean over IoU 0.5 to 0.95
    precision: float | None  # at the working threshold; None: it was never answered
    recall: float | None  # at the working threshold
    n: int  # on the images


@dataclass(frozen=True, slots=True)
class Grades:
    """What a subset came to."""

    map50: float
    map: float
    precision: float  # at the working threshold, all parts together
    recall: float
    f1: float
    threshold: float
    per_part: dict[str, PartGrades]
    confusion: NDArray[np.int64]  # (C + 1, C + 1), see `matching.confusion`
    curves: dict[str, Curve]
    n_images: int
    n_parts: int  # to be found


def grade(found: Sequence[Detections], truth: Sequence[Truth], classes: Sequence[str], threshold: float) -> Grades:
    """Return the grades of detections.

    Args:
        found, truth: of the same images, boxes in the same unit.
        classes: names of the parts.
        threshold: from which score on an answer is given.
    """
    meter = PrecisionMeter(classes)
    for row, (boxes, labels, crowds) in zip(found, truth, strict=True):
        tensors = {"boxes": _UNIT * row.boxes, "scores": row.scores, "labels": row.labels}
        named = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
        meter.update([named], [(_UNIT * boxes, labels, crowds)])
    mean = meter.compute()
    whole, each = curves(found, truth, len(classes))
    recall, precision = _at(whole, threshold)
    total = precision + recall
    parts = {name: _part(curve, mean.per_class.get(name), threshold) for name, curve in zip(classes, each, strict=True)}
    return Grades(
        map50=mean.map50,
        map=mean.map,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / total if total else 0.0,
        threshold=threshold,
        per_part=parts,
        confusion=confusion(found, truth, threshold, len(classes)),
        curves=dict(zip(classes, each, strict=True)),
        n_images=len(found),
        n_parts=whole.n_truth,
    )


def working_threshold(found: Sequence[Detections], truth: Sequence[Truth], n_classes: int) -> float:
    """Return the score from which on answers are given: where F1 of all parts together is highest."""
    return curves(found, truth, n_classes)[0].best_f1()[1]


def _at(curve: Curve, threshold: float) -> tuple[float, float]:
    """Return recall and precision of the detections that are at least so sure; 0 and 0 where there are none."""
    n = int((curve.scores >= threshold).sum())
    return (float(curve.recall[n - 1]), float(curve.precision[n - 1])) if n else (0.0, 0.0)


def _part(curve: Curve, ap: float | None, threshold: float) -> PartGrades:
    recall, precision = _at(curve, threshold)
    answered = bool((curve.scores >= threshold).any())
    if not curve.n_truth:
        return PartGrades(None, None, precision if answered else None, None, 0)
    return PartGrades(average_precision(curve), ap, precision if answered else None, recall, curve.n_truth)


def average_precision(curve: Curve) -> float:
    """Return the mean precision at 101 recalls, each the highest that is reached at that recall or above.

    Source: COCO's evaluation (cocodataset.org/#detection-eval).
    """
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    places = np.searchsorted(curve.recall, np.linspace(0, 1, 101), side="left")
    return float(np.where(places < len(best), best[np.minimum(places, len(best) - 1)], 0).mean()) if len(best) else 0.0
