"""Writes the folder of a detector's report: grades as JSON and the figures that a person looks at first."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.base.workspace import write_atomic, write_json
from tasks.images.figures import confusion_matrix_figure, save
from tasks.images.images import encode_jpeg
from tasks.recognition.detector.finding import Truth
from tasks.recognition.detector.grading import figures
from tasks.recognition.detector.grading.detections import Detections
from tasks.recognition.detector.grading.grades import Grades
from tasks.recognition.detector.training.scenes import Scenes

NOTHING = "nothing"
"""In the confusion matrix: no part is there, or none is found."""


def plain_grades(grades: Grades) -> dict[str, Any]:
    """Return grades as JSON takes them, without the curves."""
    numbers = ("map50", "map", "precision", "recall", "f1", "threshold", "n_images", "n_parts")
    return {
        **{name: getattr(grades, name) for name in numbers},
        "per_part": {name: dataclasses.asdict(part) for name, part in grades.per_part.items()},
        "confusion": {"names": [*grades.per_part, NOTHING], "rows": grades.confusion.tolist()},
    }


def write_report(target: Path, graded: Mapping[str, Grades], history: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.json and the figures of `rendered`, and of `real` where photographs were graded too.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_json(target / "metrics.json", {name: plain_grades(each) for name, each in graded.items()})
    save(figures.learning_curves_figure(history), target / "learning_curves.png")
    for name, grades in graded.items():
        prefix = "" if name == "rendered" else f"{name}_"
        save(figures.precision_recall_figure(grades), target / f"{prefix}precision_recall.png")
        save(figures.per_part_figure(grades), target / f"{prefix}per_part.png")
        names = [*grades.per_part, NOTHING]
        save(confusion_matrix_figure(grades.confusion, names), target / f"{prefix}confusion_matrix.png")


def write_gallery(
    path: Path, scenes: Scenes, found: Sequence[Detections], truth: Sequence[Truth], grades: Grades, n: int
) -> None:
    """Write the scenes with most faults as one JPEG, the worst first.

    Raises:
        ImageError: an image cannot be read any more.
        StorageError: the folder cannot be written.
    """
    classes, threshold = list(grades.per_part), grades.threshold
    faults = [-figures.n_faults(row, there, threshold) for row, there in zip(found, truth, strict=True)]
    worst = sorted(range(len(found)), key=lambda number: (faults[number], number))[:n]
    cells = [
        figures.draw_scene(scenes.read(number), found[number], truth[number], threshold, classes) for number in worst
    ]
    if cells:
        write_atomic(path, encode_jpeg(figures.sheet(cells), 85))
