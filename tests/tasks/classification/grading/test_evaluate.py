import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from tasks.base.errors import DatasetError, StorageError, TrainingError
from tasks.classification.grading.evaluate import (
    calibration_bins,
    expected_calibration_error,
    grade_predictions,
    report_metrics,
    write_report,
)
from tasks.classification.grading.metrics import Grader
from tasks.classification.params import EvaluateParams

NAMES = ["hop", "chirp", "wide", "none"]


def report(probabilities, labels, names=NAMES, **params):
    n = len(labels)
    paths, digests = [Path(f"test/{i}.png") for i in range(n)], [f"{i:04x}" for i in range(n)]
    probabilities = np.asarray(probabilities, dtype=np.float32)
    return grade_predictions(probabilities, np.asarray(labels), paths, digests, names, EvaluateParams(**params))


def random_answers(seed=0, n_images=50, n_classes=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(n_classes), n_images), rng.integers(0, n_classes, n_images)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_confusion_has_the_truth_in_rows_and_agrees_with_the_figures(seed, n_images):
    probabilities, labels = random_answers(seed, n_images)
    found = report(probabilities, labels)
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(4))
    assert (found.confusion == expected).all()
    assert found.grades.accuracy == pytest.approx(np.trace(found.confusion) / n_images)
    assert [row.support for row in found.per_class.values()] == found.confusion.sum(1).tolist()
    present = [row for row in found.per_class.values() if row.support]
    assert found.grades.f1_macro == pytest.approx(np.mean([row.f1 for row in present]))
    assert found.grades.classes_evaluated == len(present)


def test_report_and_grader_give_the_same_figures():
    logits = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 6, (80,), generator=torch.Generator().manual_seed(1))
    grader = Grader(6)
    grader.update(logits, labels)
    found = report(logits.softmax(1).numpy(), labels.numpy(), list("abcdef")).grades
    expected = grader.compute()
    for field in expected.__dataclass_fields__:
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-6), field


def test_calibration_error_is_the_gap_weighed_by_images():
    # Two bins: 0.4 right, 0.5 wrong -> mean 0.45, accuracy 0.5; 0.9 wrong -> gap 0.9.
    bins = calibration_bins(np.array([0.4, 0.5, 0.9]), np.array([True, False, False]), 2)
    assert [b.n_images for b in bins] == [2, 1]  # 0.5 belongs to the lower bin
    assert bins[0].confidence == pytest.approx(0.45)
    assert bins[0].accuracy == 0.5
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.05 + 0.9) / 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1), st.integers(1, 20))
def test_calibration_bins_hold_every_image_once_and_inside(answers, n_bins):
    confidence = np.array([a[0] for a in answers], dtype=np.float32)
    bins = calibration_bins(confidence, np.array([a[1] for a in answers]), n_bins)
    assert sum(b.n_images for b in bins) == len(answers)
    assert (bins[0].lower, bins[-1].upper) == (0, 1)
    assert all(b.lower - 1e-6 <= b.confidence <= b.upper + 1e-6 for b in bins if b.n_images)
    assert all(b.confidence is None and b.accuracy is None for b in bins if not b.n_images)
    assert 0 <= expected_calibration_error(bins) <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_confidence_on_an_edge_falls_into_the_lower_bin(dtype):
    bins = calibration_bins(np.array([0.1, 0.2, 0.3, 0.7], dtype=dtype), np.ones(4, dtype=bool), 10)
    assert [i for i, b in enumerate(bins) if b.n_images] == [0, 1, 2, 6]


def test_worst_mistakes_are_the_surest_wrong_answers_in_order():
    probabilities = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]]
    found = report(probabilities, [0, 0, 0, 0, 1], ["a", "b"], n_worst=3)
    assert [m.index for m in found.mistakes] == [2, 1, 3]
    worst = found.mistakes[0]
    assert (worst.path, worst.digest, worst.true, worst.predicted) == (Path("test/2.png"), "0002", "a", "b")
    assert worst.confidence == pytest.approx(0.8)
    assert worst.true_probability == pytest.approx(0.2)
    assert report(probabilities, [0, 0, 0, 0, 1], ["a", "b"], n_worst=0).mistakes == ()


def test_an_absent_class_is_null_in_json_and_empty_in_csv(tmp_path):
    write_report(report([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], [0, 0], ["a", "b", "c"]), tmp_path)
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["top5"] is None
    assert figures["top3"] == 1
    assert (figures["n_images"], figures["n_classes"], figures["classes_evaluated"]) == (2, 3, 1)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines[0] == "class,precision,recall,f1,average_precision,support,predicted"
    assert lines[2:] == ["b,,,,,0,0", "c,,,,,0,1"]


def test_every_table_reads_back_as_it_was(tmp_path):
    found = report(*random_answers())
    write_report(found, tmp_path / "made" / "here")
    folder = tmp_path / "made" / "here"
    confusion = pd.read_csv(folder / "confusion_matrix.csv", index_col="true/predicted")
    assert (confusion.to_numpy() == found.confusion).all()
    assert list(confusion.index) == list(confusion.columns) == NAMES
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "predictions.parquet"), found.predictions)
    text = pd.read_csv(folder / "predictions.csv", dtype={"digest": str})
    names = ["path", "digest", "true", "predicted", "confidence", *(f"p_{n}" for n in NAMES)]
    assert list(text.columns) == names
    assert np.allclose(text[names[5:]], found.predictions[names[5:]])
    bins = pd.read_csv(folder / "calibration.csv")
    assert (len(bins), bins["n_images"].sum()) == (15, 50)
    assert len(pd.read_csv(folder / "worst_mistakes.csv")) == len(found.mistakes)
    assert json.loads((folder / "metrics.json").read_text()) == report_metrics(found)
    assert len(list(folder.iterdir())) == 7


def test_a_faultless_model_gets_a_table_of_mistakes_with_a_header_only(tmp_path):
    write_report(report([[1, 0], [0, 1]], [0, 1], ["a", "b"]), tmp_path)
    assert len(pd.read_csv(tmp_path / "worst_mistakes.csv")) == 0


def test_a_probability_of_zero_for_the_truth_keeps_the_loss_finite(tmp_path):
    found = report([[0, 1]], [0], ["a", "b"])
    assert found.grades.loss == pytest.approx(87.34, abs=0.01)
    write_report(found, tmp_path)


def test_names_that_clash_with_columns_or_hold_commas_and_stray_bytes_are_written(tmp_path):
    names = ["true", "path", 'a,"b"', "caf\udce9"]
    probabilities, labels = random_answers()
    write_report(report(probabilities, labels, names), tmp_path)
    confusion = pd.read_csv(tmp_path / "confusion_matrix.csv", index_col=0)
    assert list(confusion.columns) == ["true", "path", 'a,"b"', "caf\\xe9"]
    assert "p_true" in pd.read_parquet(tmp_path / "predictions.parquet").columns


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken"):
        write_report(report([[1, 0]], [0], ["a", "b"]), tmp_path / "taken")


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "error", "message"),
    [
        (np.zeros((0, 2)), [], ["a", "b"], DatasetError, "no image"),
        ([[0.5, 0.5]], [2], ["a", "b"], DatasetError, "label 2 at image 0"),
        ([[0.5, np.nan]], [0], ["a", "b"], TrainingError, "nan, need finite"),
        ([[3.0, -2.0]], [0], ["a", "b"], ValueError, "logits need a softmax"),
        ([[0.5, 0.1]], [0], ["a", "b"], ValueError, "sums to 0.6"),
        ([[0.5, 0.5]], [0], ["a", "b", "c"], ValueError, r"need \(1, 3\)"),
        ([[0.5, 0.5]], [0], ["a", "a"], ValueError, "all different"),
    ],
)
def test_what_cannot_be_graded_is_named(probabilities, labels, names, error, message):
    with pytest.raises(error, match=message):
        report(probabilities, np.array(labels, dtype=np.int64), names)


def test_as_many_paths_and_digests_as_labels_are_needed():
    with pytest.raises(ValueError, match="1 paths and 0 digests for 2 labels"):
        grade_predictions(np.full((2, 2), 0.5), np.array([0, 1]), [Path("a")], [], ["a", "b"], EvaluateParams())
