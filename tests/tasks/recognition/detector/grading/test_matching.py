import numpy as np
import pytest

from tasks.recognition.detector.grading.detections import Detections
from tasks.recognition.detector.grading.grades import average_precision, grade, working_threshold
from tasks.recognition.detector.grading.matching import CROWD, NOBODY, answers, confusion, curves, match, overlaps


def detections(*rows):
    """Return detections from (box, score, label), the surest first."""
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def truth(*rows):
    """Return the truth from (box, label) or (box, label, True) for a crowd."""
    boxes, labels, crowds = (
        zip(*((row[0], row[1], len(row) > 2) for row in rows), strict=True) if rows else ((), (), ())
    )
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(crowds, np.bool_)


LEFT, RIGHT, FAR = (0, 0, 0.4, 0.4), (0.5, 0, 0.9, 0.4), (0.6, 0.6, 0.9, 0.9)


def test_overlap_of_a_half_shifted_box_is_a_third():
    boxes = np.array([[0, 0, 2, 2]], np.float32)
    others = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
    assert overlaps(boxes, others) == pytest.approx(np.array([[1 / 3, 1, 0]]))


def test_a_part_is_found_once_and_by_the_surest():
    found = detections((LEFT, 0.9, 0), (LEFT, 0.8, 0), (RIGHT, 0.7, 1), (FAR, 0.6, 0))
    there = truth((LEFT, 0), (RIGHT, 0), (FAR, 0, True))
    assert match(found, there, by_class=True).tolist() == [0, NOBODY, NOBODY, CROWD]
    assert match(found, there, by_class=False).tolist() == [0, NOBODY, 1, CROWD]


def test_answers_are_the_surest_box_on_each_part_or_missed():
    found = [detections((LEFT, 0.9, 2), (LEFT, 0.8, 0), (RIGHT, 0.2, 1))]
    there = [truth((RIGHT, 1), (LEFT, 0), (FAR, 1, True))]
    assert answers(found, there, 0.5, missed=3).tolist() == [3, 2]
    assert answers(found, there, 0.1, missed=3).tolist() == [1, 2]


def test_confusion_has_what_is_not_there_and_what_is_missed():
    found = [detections((LEFT, 0.9, 1), (FAR, 0.8, 0), (RIGHT, 0.1, 0))]
    there = [truth((LEFT, 0), (RIGHT, 0))]
    assert confusion(found, there, 0.5, 2).tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_curves_and_threshold_of_three_answers():
    found = [detections((LEFT, 0.9, 0)), detections((FAR, 0.8, 0), (RIGHT, 0.7, 0))]
    there = [truth((LEFT, 0)), truth((RIGHT, 0))]
    whole, (curve,) = curves(found, there, 1)
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.recall.tolist() == pytest.approx([1 / 2, 1 / 2, 1])
    assert whole.best_f1() == (pytest.approx(0.8), pytest.approx(0.7))
    assert working_threshold(found, there, 1) == pytest.approx(0.7)
    assert average_precision(curve) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_grades_agree_with_torchmetrics_and_say_what_was_not_there():
    rng = np.random.default_rng(0)
    found, there = [], []
    for _ in range(12):
        corners = rng.uniform(0, 0.6, (4, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.3, (4, 2))], 1)
        labels = rng.integers(0, 2, 4)
        there.append(truth(*zip(boxes.tolist(), labels.tolist(), strict=True)))
        moved = boxes + rng.normal(0, 0.01, boxes.shape)
        order = np.argsort(-(scores := rng.random(4)))
        shown = np.where(rng.random(4) < 0.8, labels, 1 - labels)
        found.append(
            detections(*zip(moved[order].tolist(), scores[order].tolist(), shown[order].tolist(), strict=True))
        )
    grades = grade(found, there, ["a", "b", "never there"], 0.5)
    assert 0.3 < grades.map50 < 0.95
    ap50 = [grades.per_part[name].ap50 for name in "ab"]
    assert np.mean(ap50) == pytest.approx(grades.map50, abs=1e-6)
    assert grades.per_part["never there"].ap50 is None
    assert grades.n_parts == 48
    assert grades.confusion.sum() >= 48


def test_nothing_found_and_nothing_there_is_no_fault():
    grades = grade([detections()], [truth()], ["a"], 0.5)
    assert (grades.map50, grades.recall, grades.n_parts) == (0, 0, 0)
    grades = grade([detections()], [truth((LEFT, 0))], ["a"], 0.5)
    assert (grades.map50, grades.recall, grades.confusion.tolist()) == (0, 0, [[0, 1], [0, 0]])
