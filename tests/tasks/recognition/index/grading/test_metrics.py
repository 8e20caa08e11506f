"""Grades are what can be counted by hand, and the report is written whole."""

import json

import faiss
import numpy as np
import pytest

from tasks.recognition.index.building import Queries
from tasks.recognition.index.grading.metrics import grade
from tasks.recognition.index.grading.report import similar_parts, summary, write_report
from tasks.recognition.index.index_folder import StoredIndex
from tasks.recognition.index.unknown import calibrate

HALF = np.sqrt(0.5)


@pytest.fixture
def stored():
    search = faiss.IndexFlatIP(3)
    search.add(np.eye(3, dtype=np.float32)[:2])
    config = {"parts": ["a", "b"], "threshold": 0.7, "n_nearest": 5}
    rotations = np.array([[1, 0, 0, 0], [HALF, HALF, 0, 0]], dtype=np.float32)
    return StoredIndex(config, search, ["a.jpg", "b.jpg"], np.array([0, 1]), rotations)


@pytest.fixture
def queries():
    vectors = np.array(
        [[1, 0, 0], [0.6, 0.8, 0], [0, 0.96, 0.28], [0.6, 0, 0.8], [0.6, 0, 0.8], [0, 1, 0]], dtype=np.float32
    )
    labels = np.array([0, 0, 1, 1, 2, 2])  # the last two show no part
    rotations = np.tile(np.array([1, 0, 0, 0], dtype=np.float32), (6, 1))
    return Queries([f"{n}.jpg" for n in range(6)], labels, rotations, vectors, [str(n) for n in range(6)])


def test_grades_are_those_counted_by_hand(stored, queries):
    report = grade(stored, queries, 10)
    assert report.named == report.recall_1 == 0.5  # the second is nearest to b, the fourth (of parts) to a
    assert report.recall_5 == 1.0
    assert report.known_lost == 0.25  # the fourth: 0.6
    assert report.unknown_refused == 0.5  # 0.6 is refused, 1.0 is not
    assert report.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 1]]
    assert report.pose_error_deg == pytest.approx(45)  # 0 for the first, 90 for the third
    assert [row.mixed_up_with for row in report.per_part] == ["b", "a"]
    assert report.mistakes == [5, 1, 3]
    assert similar_parts(report) == [("a", "b", 1)]


def test_the_threshold_loses_the_share_of_known_views_that_it_may(stored):
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 1, 400)
    known = np.stack([np.cos(angles), 0 * angles, np.sin(angles)], axis=1).astype(np.float32)
    found = calibrate(stored, np.zeros(400, dtype=np.int64), known, known[angles > 0.9], 0.05)
    assert found.known_lost == pytest.approx(0.05, abs=0.01)
    assert found.unknown_refused > 0.3
    assert "5.0% of the held-out views of parts" in found.sentence


def test_a_report_is_written(stored, queries, tmp_path):
    import cv2

    for path in [*queries.paths, *stored.paths]:
        cv2.imwrite(str(tmp_path / path), np.full((20, 20, 3), 90, dtype=np.uint8))
    report = grade(stored, queries, 10)
    write_report(report, stored, queries, tmp_path, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        *("metrics.json", "per_part.csv", "confusion_matrix.csv", "predictions.csv"),
        *("confusion_matrix.png", "known_and_unknown.png", "worst_mistakes.png"),
    }
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["recall_1"] == 0.5
    text = summary(report, "**New champion.** there is none", "small", "http://mlflow")
    assert "| a | 2 | 0.500 | 0.500 | 1.000 | 0.000 | 0 | b |" in text
    assert text.count("\n| a | ") == 1
    assert "| metric | value |\n|---|---|\n| named | 0.5000 |\n| recall_1 | 0.5000 |" in text
