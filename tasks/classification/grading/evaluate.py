"""Writes the test report: metrics, confusion matrix, calibration, and the worst mistakes."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.base.workspace import write_atomic
from tasks.classification.grading.metrics import (
    ClassGrades,
    Floats,
    Grades,
    Ints,
    check_answers,
    confusion_counts,
    grade,
    grade_classes,
)
from tasks.classification.params import EvaluateParams


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The images whose confidence lies in (lower, upper]; without any, the two means are None."""

    lower: float
    upper: float
    n_images: int
    confidence: float | None  # mean
    accuracy: float | None  # mean


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer."""

    index: int  # of the image in the arrays that were graded
    path: Path
    digest: str
    true: str
    predicted: str
    confidence: float  # in the wrong class
    true_probability: float  # left for the right one


@dataclass(frozen=True, slots=True, eq=False)
class TestReport:
    """Everything there is to say about the answers to one test part."""

    __test__ = False  # pytest would collect it as a test by its name

    class_names: tuple[str, ...]
    grades: Grades
    confusion: NDArray[np.int64]  # (C, C) images; row = true class, column = predicted class
    per_class: dict[str, ClassGrades]
    calibration_error: float  # expected calibration error, in [0, 1]
    calibration: tuple[CalibrationBin, ...]
    mistakes: tuple[Mistake, ...]  # highest confidence first, at most n_worst
    predictions: pd.DataFrame  # path, digest, true, predicted, confidence, p_<class> per class


def grade_predictions(
    probabilities: Floats,
    labels: Ints,
    paths: Sequence[Path | str],
    digests: Sequence[str],
    class_names: Sequence[str],
    params: EvaluateParams,
) -> TestReport:
    """Grade the answers to a test part.

    In the loss a probability counts as 1.2e-38, the smallest normal float32, at least; so it stays finite.

    Args:
        probabilities: (N, C) in [0, 1]; each row sums to 1.
        labels: (N,) in [0, C).
        paths, digests: of the N images; a path is kept as it is given, relative or not.
        class_names: C different ones.
        params: how many bins and mistakes.

    Raises:
        DatasetError: there is no image, or a label is outside [0, C).
        TrainingError: a probability is not finite.
        ValueError: the arguments do not fit together, or the rows are not probabilities.
    """
    names = tuple(_text(name) for name in class_names)
    _check(probabilities, labels, paths, digests, names)
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses = -np.log(np.maximum(truth, np.finfo(np.float32).tiny))
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    bins = calibration_bins(confidence, predicted == labels, params.n_bins)
    return TestReport(
        class_names=names,
        grades=grade(probabilities, labels, losses=losses),
        confusion=confusion_counts(labels, predicted, len(names)),
        per_class=dict(zip(names, grade_classes(probabilities, labels), strict=True)),
        calibration_error=expected_calibration_error(bins),
        calibration=tuple(bins),
        mistakes=tuple(_worst(probabilities, labels, paths, digests, names, params.n_worst)),
        predictions=_table(probabilities, labels, paths, digests, names),
    )


def _table(
    probabilities: Floats, labels: Ints, paths: Sequence[Path | str], digests: Sequence[str], names: Sequence[str]
) -> pd.DataFrame:
    """Return one row per image, as TestReport.predictions has them."""
    columns = {
        "path": [_text(os.fspath(path)) for path in paths],
        "digest": list(digests),
        "true": [names[label] for label in labels],
        "predicted": [names[answer] for answer in probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
    }
    return pd.DataFrame(columns | {f"p_{name}": probabilities[:, number] for number, name in enumerate(names)})


def calibration_bins(confidence: Floats, right: NDArray[np.bool_], n_bins: int) -> list[CalibrationBin]:
    """Sort answers into bins of equal width by their confidence.

    Args:
        confidence: (N,) in [0, 1], the highest probability of each image.
        right: (N,) whether that answer is the true class.
        n_bins: at least 1.

    Source: Guo et al. 2017 (arXiv:1706.04599) sec. 2: bin m holds the confidences in ((m - 1) / M, m / M].
    """
    edges = np.arange(n_bins + 1) / n_bins
    # A confidence of 0.2 in float32 is slightly above 0.2 in float64, and would fall into the next bin.
    inner = edges[1:-1].astype(confidence.dtype)
    number = np.searchsorted(inner, confidence, side="left")
    bins = []
    for m in range(n_bins):
        inside = number == m
        n_images = int(inside.sum())
        bins.append(
            CalibrationBin(
                lower=float(edges[m]),
                upper=float(edges[m + 1]),
                n_images=n_images,
                confidence=float(confidence[inside].mean(dtype=np.float64)) if n_images else None,
                accuracy=float(right[inside].mean()) if n_images else None,
            )
        )
    return bins


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean gap between confidence and accuracy, each bin weighed by its images.

    Source: Guo et al. 2017 (arXiv:1706.04599) eq. 3.
    """
    gaps = [
        b.n_images * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    ]
    return float(sum(gaps) / sum(b.n_images for b in bins))


def report_metrics(report: TestReport) -> dict[str, float | int | None]:
    """Return the report's single metrics as `metrics.json` holds them; None where one is not defined."""
    return {
        **asdict(report.grades),
        "calibration_error": report.calibration_error,
        "n_images": int(report.confusion.sum()),
        "n_classes": len(report.class_names),
    }


def write_report(report: TestReport, target: Path) -> None:
    """Write the report into the folder `target`, each file whole or not at all.

    They are metrics.json, confusion_matrix.csv (row = true class), per_class.csv, calibration.csv,
    worst_mistakes.csv, predictions.csv, predictions.parquet. What is not defined is null or empty there.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    names = list(report.class_names)
    rows = [{"class": name, **asdict(row)} for name, row in report.per_class.items()]
    mistakes = [{**asdict(m), "path": _text(os.fspath(m.path))} for m in report.mistakes]
    confusion = pd.DataFrame(report.confusion, index=names, columns=names)
    tables = {
        "confusion_matrix.csv": confusion.rename_axis("true/predicted"),
        "per_class.csv": pd.DataFrame(rows),
        "calibration.csv": pd.DataFrame([asdict(b) for b in report.calibration]),
        # The columns are named for the file without a mistake.
        "worst_mistakes.csv": pd.DataFrame(mistakes, columns=list(Mistake.__dataclass_fields__)),
        "predictions.csv": report.predictions,
    }
    for name, table in tables.items():
        write_atomic(target / name, table.to_csv(index=table.index.name is not None).encode())
    parquet = BytesIO()
    report.predictions.to_parquet(parquet, index=False)
    write_atomic(target / "predictions.parquet", parquet.getvalue())
    metrics = json.dumps(report_metrics(report), indent=2, allow_nan=False) + "\n"
    write_atomic(target / "metrics.json", metrics.encode())


def _worst(
    probabilities: Floats,
    labels: Ints,
    paths: Sequence[Path | str],
    digests: Sequence[str],
    names: Sequence[str],
    n_worst: int,
) -> list[Mistake]:
    """Return the most confident wrong answers; equal ones in the order the images came."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:n_worst]
    return [
        Mistake(
            index=int(i),
            path=Path(paths[i]),
            digest=digests[i],
            true=names[labels[i]],
            predicted=names[predicted[i]],
            confidence=float(confidence[i]),
            true_probability=float(probabilities[i, labels[i]]),
        )
        for i in order
    ]


def _check(
    probabilities: Floats,
    labels: Ints,
    paths: Sequence[Path | str],
    digests: Sequence[str],
    names: Sequence[str],
) -> None:
    n_images = len(labels)
    if probabilities.shape != (n_images, len(names)):
        raise ValueError(
            f"found probabilities {probabilities.shape}, need ({n_images}, {len(names)}): "
            "one row per label, one column per class"
        )
    if len(paths) != n_images or len(digests) != n_images:
        raise ValueError(f"found {len(paths)} paths and {len(digests)} digests for {n_images} labels, need one each")
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(f"found the class names {list(names)}, need at least 2, all different")
    check_answers(probabilities, labels)
    _check_sums(probabilities)


def _check_sums(probabilities: Floats) -> None:
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # 1e-2: probabilities may come from half precision.
    bad = np.flatnonzero((np.abs(sums - 1) > 1e-2) | (probabilities.min(axis=1) < 0))
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"row {row} (counted from 0) of the probabilities sums to {sums[row]:.4g}, its least value is "
            f"{probabilities[row].min():.4g}; need values in [0, 1] that sum to 1 (logits need a softmax)"
        )


def _text(name: str) -> str:
    r"""Return the name with bytes that are not UTF-8, which a file system allows, written as \x escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
