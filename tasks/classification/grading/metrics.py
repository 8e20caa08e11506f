"""Metrics of a classifier: fractions from 0 to 1, and losses in nats.

Two rules hold everywhere. Absent classes: a class without an image in the truth has no metrics (null), and
macro metrics are means over the classes that do occur; `classes_evaluated` counts them. Top-k: null when
there are fewer than k classes. A class that occurs but is never answered has precision 0. Among equal scores
the class listed first is the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.base.errors import DatasetError, TrainingError

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Grades:
    """The metrics of one set of images."""

    loss: float  # mean cross-entropy per image, nats
    accuracy: float  # equals top1
    f1_macro: float
    f1_micro: float  # equals accuracy, as always when an image has exactly one class
    average_precision: float  # exact, not binned; mean over the classes that occur (mAP)
    top1: float
    top3: float | None  # None: fewer than 3 classes
    top5: float | None  # None: fewer than 5 classes
    precision: float  # macro
    recall: float  # macro
    classes_evaluated: int  # classes with at least one image in the truth


@dataclass(frozen=True, slots=True)
class ClassGrades:
    """The metrics of one class; all None when no image has it."""

    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    support: int  # images that have the class
    predicted: int  # images that were given the class


class Grader:
    """Collects answers batch by batch, on whatever device they are, and grades them together.

    `update` only copies: it neither waits for a GPU nor looks at values, so that it can stand in a training
    loop; `compute` tells what is wrong with them. Memory on the device: 4 bytes x (n_classes + 2) per image.

    Args:
        n_classes: at least 2.

    Raises:
        ValueError: there are fewer classes.
    """

    def __init__(self, n_classes: int) -> None:
        if n_classes < 2:
            raise ValueError(f"found n_classes {n_classes}, need at least 2 to grade a classifier")
        self._n_classes = n_classes
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def reset(self) -> None:
        """Forget everything collected."""
        self._logits.clear()
        self._labels.clear()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Collect one batch.

        Args:
            logits: (B, n_classes) of any float type, on any device.
            labels: (B,) int64 in [0, n_classes).

        Raises:
            ValueError: a shape or type is another one.
        """
        if logits.ndim != 2 or logits.shape[1] != self._n_classes or not logits.is_floating_point():
            found = f"{tuple(logits.shape)} {logits.dtype}"
            raise ValueError(f"found logits {found}, need (B, {self._n_classes}) of a float type")
        if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
            found = f"{tuple(labels.shape)} {labels.dtype}"
            raise ValueError(f"found labels {found}, need ({len(logits)},) torch.int64")
        # Copies: a compiled model may write its next answer into the same memory.
        self._logits.append(logits.detach().to(torch.float32, copy=True))
        self._labels.append(labels.detach().clone())

    def answers(self) -> tuple[NDArray[np.float32], Ints]:
        """Return the logits (N, C) and labels (N,) of everything since the last reset."""
        return torch.cat(self._logits).cpu().numpy(), torch.cat(self._labels).cpu().numpy()

    def compute(self) -> Grades:
        """Return the metrics of everything since the last reset.

        Raises:
            DatasetError: nothing was collected, or a label is outside [0, n_classes).
            TrainingError: the model answered with a value that is not finite.
        """
        if not sum(len(labels) for labels in self._labels):
            raise DatasetError("found no image to grade, need at least 1")
        logits, labels = self.answers()
        check_answers(logits, labels)
        # In double precision confident answers still differ from each other, so that their order is not lost.
        scores = torch.from_numpy(logits).double().log_softmax(1).numpy()
        return grade(scores, labels, losses=-scores[np.arange(len(labels)), labels])


def check_answers(scores: Floats, labels: Ints) -> None:
    """Refuse what cannot be graded.

    Args:
        scores: (N, C) logits or probabilities.
        labels: (N,) class numbers.

    Raises:
        DatasetError: there is no image, or a label is outside [0, C).
        TrainingError: a score is not finite.
    """
    n_images, n_classes = scores.shape
    if not n_images:
        raise DatasetError("found no image to grade, need at least 1")
    outside = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(outside):
        first = int(outside[0])
        raise DatasetError(
            f"found label {int(labels[first])} at image {first} of {n_images} (counted from 0; "
            f"{len(outside)} such), need a class number from 0 to {n_classes - 1}"
        )
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        first = int(bad[0])
        value = scores[first][~np.isfinite(scores[first])][0]
        raise TrainingError(
            f"the model answers image {first} of {n_images} (counted from 0; {len(bad)} such) with {value}, "
            "need finite values: lower the learning rate, clip the gradients or use fp32"
        )


def grade(scores: Floats, labels: Ints, *, losses: Floats) -> Grades:
    """Return the metrics of a set of answers.

    Args:
        scores: (N, C), any scale on which a higher value within a column and within a row means more likely.
        labels: (N,) in [0, C).
        losses: (N,) cross-entropy of each image, nats.
    """
    rank = truth_ranks(scores, labels)
    present = [row for row in grade_classes(scores, labels) if row.support]
    accuracy = float(np.mean(rank == 0))
    return Grades(
        loss=float(np.mean(losses)),
        accuracy=accuracy,
        f1_macro=_mean([row.f1 for row in present]),
        f1_micro=accuracy,
        average_precision=_mean([row.average_precision for row in present]),
        top1=accuracy,
        top3=_top_k(rank, 3, scores.shape[1]),
        top5=_top_k(rank, 5, scores.shape[1]),
        precision=_mean([row.precision for row in present]),
        recall=_mean([row.recall for row in present]),
        classes_evaluated=len(present),
    )


def grade_classes(scores: Floats, labels: Ints) -> list[ClassGrades]:
    """Return the metrics of every class, one against the rest.

    Args:
        scores: (N, C), as for `grade`.
        labels: (N,) in [0, C).
    """
    counts = confusion_counts(labels, scores.argmax(axis=1), scores.shape[1])
    rows = []
    for number, (support, predicted) in enumerate(zip(counts.sum(axis=1), counts.sum(axis=0), strict=True)):
        if not support:
            rows.append(ClassGrades(None, None, None, None, 0, int(predicted)))
            continue
        right = int(counts[number, number])
        rows.append(
            ClassGrades(
                precision=float(right / predicted) if predicted else 0.0,
                recall=float(right / support),
                f1=float(2 * right / (support + predicted)),
                average_precision=average_precision(scores[:, number], labels == number),
                support=int(support),
                predicted=int(predicted),
            )
        )
    return rows


def confusion_counts(labels: Ints, predicted: Ints, n_classes: int) -> NDArray[np.int64]:
    """Return (C, C) counts of images: row = true class, column = predicted class."""
    cells = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return cells.astype(np.int64).reshape(n_classes, n_classes)


def truth_ranks(scores: Floats, labels: Ints) -> NDArray[np.int64]:
    """Return (N,) at which place, from 0, each image's true class stands among the answers."""
    truth = scores[np.arange(len(labels)), labels][:, None]  # (N, 1)
    listed_before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    return ((scores > truth) | ((scores == truth) & listed_before)).sum(axis=1, dtype=np.int64)


def average_precision(scores: Floats, is_class: NDArray[np.bool_]) -> float:
    """Return the area under the precision-recall steps: the sum of (R_n - R_{n-1}) P_n over distinct scores.

    Args:
        scores: (N,) of one class, higher means more likely; images of equal score enter together.
        is_class: (N,) whether the image has the class; at least one has.

    Source: scikit-learn average_precision_score, whose value this is.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    right = np.cumsum(is_class[order])[ends]
    steps = np.diff(right, prepend=0) / right[-1]
    return float(steps @ (right / (ends + 1)))


def _top_k(rank: NDArray[np.int64], k: int, n_classes: int) -> float | None:
    return float(np.mean(rank < k)) if n_classes >= k else None


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known))
