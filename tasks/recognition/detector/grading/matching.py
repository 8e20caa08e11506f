"""Holds detections against the truth: which box is whose, what precision and recall come to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.recognition.detector.finding import Truth
from tasks.recognition.detector.grading.detections import Detections

MIN_IOU = 0.5
"""Intersection over union from which a box counts as found, as in Pascal VOC and mAP@50."""
NOBODY, CROWD = -1, -2
"""Of a detection: no part is there, or a crowd, which is neither right nor wrong."""


def overlaps(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union (N, M) of boxes (N, 4) and (M, 4)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.prod((high - low).clip(0), axis=2)
    areas = [np.prod((each[:, 2:] - each[:, :2]).clip(0), axis=1) for each in (boxes, others)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1e-12), np.float64)


def match(found: Detections, truth: Truth, *, by_class: bool) -> NDArray[np.int64]:
    """Return for each detection (K,) the number of the part it finds, `NOBODY` or `CROWD`.

    The surest detection chooses first; each part is found once.

    Args:
        found: the surest first.
        truth: of the same image, in the same unit.
        by_class: a detection of another class finds nothing.
    """
    boxes, labels, crowds = truth
    result = np.full(len(found.scores), NOBODY, np.int64)
    if not len(labels):
        return result
    iou = overlaps(found.boxes, boxes)
    if by_class:
        iou = np.where(found.labels[:, None] == labels[None, :], iou, 0)
    free = ~crowds
    for number, row in enumerate(iou):
        best = int(np.argmax(np.where(free, row, 0)))
        if free[best] and row[best] >= MIN_IOU:
            result[number], free[best] = best, False
        elif (row[crowds] >= MIN_IOU).any():
            result[number] = CROWD
    return result


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision and recall of one part, or of all, by falling score."""

    scores: NDArray[np.float32]  # (N,)
    precision: NDArray[np.float64]  # (N,) of the detections down to that score
    recall: NDArray[np.float64]  # (N,)
    n_truth: int

    def best_f1(self) -> tuple[float, float]:
        """Return the highest F1, and the score at which it is reached; 0 and 0.5 where nothing is found rightly."""
        total = self.precision + self.recall
        f1 = np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)
        if not len(f1) or f1.max() <= 0:
            return 0.0, 0.5
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.scores[best])


def curves(found: Sequence[Detections], truth: Sequence[Truth], n_classes: int) -> tuple[Curve, list[Curve]]:
    """Return the curve of all parts together, and that of each."""
    whose = (match(row, there, by_class=True) for row, there in zip(found, truth, strict=True))
    matched = np.concatenate([np.zeros(0, np.int64), *whose])
    scores = np.concatenate([np.zeros(0, np.float32), *(row.scores for row in found)])
    labels = np.concatenate([np.zeros(0, np.int64), *(row.labels for row in found)])
    wanted = np.concatenate([np.zeros(0, np.int64), *(each[1][~each[2]] for each in truth)])
    counts = np.bincount(wanted, minlength=n_classes)
    graded = matched != CROWD
    whole = _curve(scores[graded], matched[graded] >= 0, int(counts.sum()))
    each = [graded & (labels == number) for number in range(n_classes)]
    return whole, [_curve(scores[m], matched[m] >= 0, int(n)) for m, n in zip(each, counts, strict=True)]


def _curve(scores: NDArray[np.float32], right: NDArray[np.bool_], n_truth: int) -> Curve:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    return Curve(scores[order], hits / np.arange(1, len(hits) + 1), hits / max(n_truth, 1), n_truth)


def answers(found: Sequence[Detections], truth: Sequence[Truth], threshold: float, missed: int) -> NDArray[np.int64]:
    """Return what is answered for each part that is there (N,), crowds left out: the class of the surest box on it.

    Args:
        found: the surest first.
        truth: of the same images.
        threshold: detections below do not count.
        missed: the number that stands for no detection.
    """
    rows: list[int] = []
    for row, (boxes, _, crowds) in zip(found, truth, strict=True):
        sure = row.above(threshold)
        near = overlaps(boxes[~crowds], sure.boxes) >= MIN_IOU
        # The first is the surest.
        rows.extend(int(sure.labels[int(np.argmax(each))]) if each.any() else missed for each in near)
    return np.array(rows, np.int64)


def confusion(found: Sequence[Detections], truth: Sequence[Truth], threshold: float, n: int) -> NDArray[np.int64]:
    """Return (n + 1, n + 1): row by what is there, column by what is answered; the last of either is nothing."""
    matrix = np.zeros((n + 1, n + 1), np.int64)
    for row, there in zip(found, truth, strict=True):
        sure = row.above(threshold)
        whose = match(sure, there, by_class=False)
        for label, part in zip(sure.labels, whose, strict=True):
            if part != CROWD:
                matrix[n if part == NOBODY else there[1][part], label] += 1
        lost = set(np.flatnonzero(~there[2]).tolist()) - set(whose.tolist())
        for part in lost:
            matrix[there[1][part], n] += 1
    return matrix
