"""A classifier's answers are found for the same images, wherever the folder lies."""

from pathlib import Path

import pandas as pd
import pytest

from tasks.base.errors import ConfigError, DatasetError
from tasks.vision_language.describe.classifier_table import read_classifier, side_by_side
from tasks.vision_language.describe.grading import Grade
from tasks.vision_language.describe.params import CompareParams
from tasks.vision_language.describe.questions import Question

QUESTIONS = [
    Question(number, (Path(name),), "What?")
    for number, name in enumerate(["/d/test/cat/0.png", "/d/test/cat/1.png", "/d/test/dog/0.png", "/d/test/dog/1.png"])
]
KEYS = [question.key for question in QUESTIONS]


def table(folder, rows, columns=("path", "predicted"), name="predictions.csv"):
    frame = pd.DataFrame(rows, columns=list(columns))
    frame.to_csv(folder / name, index=False) if name.endswith("csv") else frame.to_parquet(folder / name)
    return CompareParams(table=folder / name)


def test_images_are_matched_by_path_or_by_folder_and_name(tmp_path):
    rows = [("/d/test/cat/0.png", "cat"), ("test/cat/1.png", "dog"), ("/elsewhere/dog/0.png", "dog")]
    found = read_classifier(table(tmp_path, rows), QUESTIONS)
    assert found == dict(zip(KEYS, ["cat", "dog", "dog"], strict=False))


def test_what_predict_left_is_read_too(tmp_path):
    rows = [("/d/test/cat/0.png", "cat"), ("/d/test/cat/1.png", None)]
    params = table(tmp_path, rows, ("path", "class"), "predictions.parquet")
    assert read_classifier(params, QUESTIONS) == {KEYS[0]: "cat"}


def test_two_images_of_one_folder_and_name_are_not_mixed_up(tmp_path):
    rows = [("/a/cat/0.png", "cat"), ("/b/cat/0.png", "dog"), ("/d/test/dog/0.png", "dog")]
    assert read_classifier(table(tmp_path, rows), QUESTIONS) == {KEYS[2]: "dog"}


def test_a_run_is_found_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "my-run" / "training" / "report"
    folder.mkdir(parents=True)
    table(folder, [("test/cat/0.png", "cat")], name="predictions.parquet")
    assert read_classifier(CompareParams(run="my-run"), QUESTIONS) == {KEYS[0]: "cat"}


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="found columns path, label, need path and predicted or class"):
        read_classifier(table(tmp_path, [("a", "b")], ("path", "label")), QUESTIONS)
    with pytest.raises(ConfigError, match=r"found none of 4 question\(s\) among 1 image\(s\)"):
        read_classifier(table(tmp_path, [("/x/y.png", "cat")]), QUESTIONS)
    (tmp_path / "predictions.parquet").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="cannot be read as a table"):
        read_classifier(CompareParams(table=tmp_path / "predictions.parquet"), QUESTIONS)
    with pytest.raises(DatasetError, match="No such file"):
        read_classifier(CompareParams(table=tmp_path / "absent.csv"), QUESTIONS)


def test_both_are_counted_on_the_images_that_both_answered():
    grades = {
        key: Grade(right, None, right == "dog") for key, right in zip(KEYS, ["cat", "cat", "dog", "dog"], strict=True)
    }
    both = side_by_side(grades, dict(zip(KEYS, ["Cat", "dog", "dog"], strict=False)))
    assert (both.n, both.n_right, both.n_classifier_right, both.n_both) == (3, 1, 2, 1)
    assert both.per_class == {"cat": (2, 0, 1), "dog": (1, 1, 1)}
