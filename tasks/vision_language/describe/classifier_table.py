"""Finds what a classifier answered to the same images, in the table that its run left."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.outside import TABLE_BYTES, check_file
from tasks.base.workspace import allowed_path, run_path
from tasks.tracking import registry
from tasks.vision_language.describe.grading import Grade, plain
from tasks.vision_language.describe.params import CompareParams
from tasks.vision_language.describe.questions import Question

_ON_DISK = ("prediction/predictions.parquet", "training/report/predictions.parquet")
_IN_MLFLOW = ("prediction/predictions.parquet", "report/predictions.parquet")
_CLASS = ("predicted", "class")  # of classification's evaluation, of predict


def read_classifier(params: CompareParams, questions: Sequence[Question]) -> dict[str, str]:
    """Return key of a question -> class that a classifier gave its image; questions with several images have none.

    Args:
        params: which run or table.
        questions: all of them.

    Raises:
        ConfigError: there is no such run or table, or it is of other images.
        DatasetError: the table cannot be read.
        TrackingError: MLflow does not answer.
    """
    where = params.table or params.run
    with tempfile.TemporaryDirectory() as folder:
        path = _table(params, Path(folder))
        frame = _read(path)
    column = next((name for name in _CLASS if name in frame), None)
    if column is None or "path" not in frame:
        raise DatasetError(f"found columns {', '.join(map(str, frame))}, need path and predicted or class: {where}")
    known = frame.dropna(subset=[column]).drop_duplicates("path")  # a detector's first region, its best one
    found = _matched(questions, dict(zip(known["path"].astype(str), known[column].astype(str), strict=True)))
    if not found:
        raise ConfigError(f"found none of {len(questions)} question(s) among {len(known)} image(s) of {where}")
    return found


def _table(params: CompareParams, folder: Path) -> Path:
    if params.table is not None:
        return allowed_path(params.table)
    assert params.run is not None, "a run or a table is given"
    home = run_path(params.run)
    for name in _ON_DISK if home is not None else ():
        if home is not None and (home / name).is_file():
            return home / name
    for name in _IN_MLFLOW:
        if registry.why_lost(params.run, [name]) is None:
            return registry.fetch(params.run, [name], folder)[0]
    raise ConfigError(f"found no predictions of a run {params.run}, need one of predict or classification")


def _read(path: Path) -> Any:
    check_file(path, DatasetError, TABLE_BYTES)
    try:
        return pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as exc:  # pyarrow's and pandas' own are ValueErrors
        raise DatasetError(f"cannot be read as a table ({str(exc).splitlines()[0]}): {path}") from exc


def _matched(questions: Sequence[Question], classes: Mapping[str, str]) -> dict[str, str]:
    """Match by path; where the folder lies elsewhere, by folder and name, as long as these are of one image only."""
    tails = Counter(_tail(path) for path in classes)
    by_tail = {_tail(path): name for path, name in classes.items() if tails[_tail(path)] == 1}
    found = {}
    for question in questions:
        if len(question.images) == 1 and not question.times:
            path = str(question.images[0])
            name = classes.get(path) or by_tail.get(_tail(path))
            if name is not None:
                found[question.key] = name
    return found


def _tail(path: str) -> tuple[str, ...]:
    return Path(path).parts[-2:]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The model and a classifier on the images that both answered."""

    n: int
    n_right: int  # of the model
    n_classifier_right: int
    n_both: int
    per_class: dict[str, tuple[int, int, int]]  # right answer -> images, right ones of the model, of the classifier


def side_by_side(grades: Mapping[str, Grade], classes: Mapping[str, str]) -> SideBySide:
    """Return how both did.

    Args:
        grades: of the model, by the keys of the questions.
        classes: of the classifier, by the same.
    """
    per_class: dict[str, tuple[int, int, int]] = {}
    n_both = 0
    for key in sorted(grades.keys() & classes.keys(), key=lambda key: grades[key].right_answer):
        grade = grades[key]
        right = plain(classes[key]) == plain(grade.right_answer)
        n, model, classifier = per_class.get(grade.right_answer, (0, 0, 0))
        per_class[grade.right_answer] = (n + 1, model + grade.correct, classifier + right)
        n_both += right and grade.correct
    sums = [sum(row[place] for row in per_class.values()) for place in range(3)]
    return SideBySide(sums[0], sums[1], sums[2], n_both, per_class)
