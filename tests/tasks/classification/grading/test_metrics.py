import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tasks.base.errors import DatasetError, TrainingError
from tasks.classification.grading.metrics import Grader, average_precision, grade_classes, truth_ranks


def answers(seed, n_images, n_classes, *, ties=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n_images, n_classes))
    logits = np.round(logits) if ties else logits
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(rng.integers(0, n_classes, n_images))


def grades(logits, labels, batch=7):
    grader = Grader(logits.shape[1])
    for start in range(0, len(labels), batch):
        grader.update(logits[start : start + batch], labels[start : start + batch])
    return grader.compute()


sets = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 8), st.booleans())


@settings(max_examples=30, deadline=None)
@given(sets)
def test_every_figure_is_that_of_scikit_learn_over_the_classes_that_occur(drawn):
    seed, n_images, n_classes, ties = drawn
    logits, labels = answers(seed, n_images, n_classes, ties=ties)
    found = grades(logits, labels)
    truth, scores = labels.numpy(), torch.log_softmax(logits.double(), 1).numpy()
    predicted, present = scores.argmax(1), np.unique(truth)
    options = {"labels": present, "average": "macro", "zero_division": 0}
    assert found.precision == pytest.approx(sk.precision_score(truth, predicted, **options))
    assert found.recall == pytest.approx(sk.recall_score(truth, predicted, **options))
    assert found.f1_macro == pytest.approx(sk.f1_score(truth, predicted, **options))
    everything = {"labels": np.arange(n_classes), "average": "micro", "zero_division": 0}
    assert found.f1_micro == pytest.approx(sk.f1_score(truth, predicted, **everything))
    assert found.accuracy == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found.loss == pytest.approx(sk.log_loss(truth, np.exp(scores), labels=range(n_classes)))
    exact = [sk.average_precision_score(truth == c, scores[:, c]) for c in present]
    assert found.average_precision == pytest.approx(np.mean(exact))
    assert found.classes_evaluated == len(present)


@settings(max_examples=25, deadline=None)
@given(sets)
def test_top_k_is_that_of_scikit_learn(drawn):
    seed, n_images, n_classes, _ = drawn
    assume(n_classes >= 5)
    logits, labels = answers(seed, n_images, n_classes)
    found = grades(logits, labels)
    options = {"labels": np.arange(n_classes)}
    for k, figure in ((1, found.top1), (3, found.top3)):
        assert figure == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=k, **options))
    if n_classes > 5:
        assert found.top5 == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=5, **options))


@settings(max_examples=30, deadline=None)
@given(sets, st.integers(1, 30))
def test_figures_are_fractions_and_do_not_depend_on_the_batches(drawn, batch):
    seed, n_images, n_classes, ties = drawn
    logits, labels = answers(seed, n_images, n_classes, ties=ties)
    found = grades(logits, labels, batch)
    assert found == grades(logits, labels, n_images)
    assert found.accuracy == found.top1 == found.f1_micro
    for name, value in dataclasses.asdict(found).items():
        if value is not None and name not in {"loss", "classes_evaluated"}:
            assert 0 <= value <= 1, name
    tops = [t for t in (found.top1, found.top3, found.top5) if t is not None]
    assert tops == sorted(tops)


@pytest.mark.parametrize(
    ("n_classes", "top3", "top5"), [(2, None, None), (3, 1.0, None), (4, ..., None), (5, ..., 1.0)]
)
def test_top_k_is_null_with_fewer_classes_than_k(n_classes, top3, top5):
    found = grades(*answers(0, 40, n_classes))
    assert found.top5 == top5
    assert found.top3 == (pytest.approx(found.top3) if top3 is ... else top3)
    assert (found.top3 is None) == (n_classes < 3)


def test_a_class_that_is_absent_or_never_answered_follows_the_rule():
    # Truth 0 0 1, answers 0 2 0: class 1 is never answered, class 2 does not occur.
    logits = torch.tensor([[9.0, 0, 1], [0, 1, 9], [9, 1, 0]])
    labels = torch.tensor([0, 0, 1])
    first, second, third = grade_classes(logits.numpy(), labels.numpy())
    assert (first.precision, first.recall, first.f1) == (0.5, 0.5, 0.5)
    assert (second.precision, second.recall, second.f1, second.support, second.predicted) == (0, 0, 0, 1, 0)
    assert (third.precision, third.recall, third.f1, third.average_precision) == (None,) * 4
    assert (third.support, third.predicted) == (0, 1)
    found = grades(logits, labels)
    assert (found.f1_macro, found.recall, found.classes_evaluated) == (0.25, 0.25, 2)


def test_equal_scores_go_to_the_class_listed_first():
    assert truth_ranks(np.zeros((3, 3)), np.array([0, 1, 2])).tolist() == [0, 1, 2]
    assert grades(torch.zeros(3, 3), torch.tensor([0, 1, 2])).accuracy == pytest.approx(1 / 3)


def test_images_of_equal_score_enter_average_precision_together():
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25
    assert average_precision(np.zeros(4), np.array([False, False, False, True])) == 0.25


def test_very_sure_answers_keep_their_order():
    # Both are 1.0 as float32 probabilities.
    logits = torch.tensor([[30.0, 0.0], [40.0, 0.0], [0.0, 5.0]])
    found = grades(logits, torch.tensor([1, 0, 1]))
    # Class 0: 40 (right) before 30 (wrong): 1. Class 1: 5 (right), then 30, which is right too: 1.
    assert found.average_precision == 1.0


def test_loss_of_a_sure_wrong_answer_is_the_exact_finite_one():
    assert grades(torch.tensor([[0.0, 500.0]]), torch.tensor([0])).loss == pytest.approx(500)


def test_reset_forgets_and_compute_does_not():
    logits, labels = answers(0, 20, 3)
    grader = Grader(3)
    grader.update(logits, 2 - labels)
    first = grader.compute()
    assert grader.compute() == first
    grader.reset()
    grader.update(logits, labels)
    assert grader.compute() == grades(logits, labels)


def test_a_batch_may_be_overwritten_once_collected():
    logits, labels = answers(0, 20, 3)
    expected = grades(logits, labels)
    grader = Grader(3)
    grader.update(logits, labels)
    logits.zero_()
    labels.zero_()
    assert grader.compute() == expected


def test_answers_in_half_precision_under_grad_and_inference_mode_are_taken():
    logits, labels = answers(0, 20, 3)
    grader = Grader(3)
    grader.update(logits.bfloat16().requires_grad_(), labels)
    with torch.inference_mode():
        inferred = logits * 1
    grader.update(inferred, labels)
    assert grader.compute().classes_evaluated == 3


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(label):
    grader = Grader(3)
    grader.update(torch.zeros(2, 3), torch.tensor([0, label]))
    with pytest.raises(DatasetError, match=rf"label {label} at image 1 of 2 .* from 0 to 2"):
        grader.compute()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_not_finite_is_named(value):
    grader = Grader(2)
    grader.update(torch.tensor([[0.0, 1.0], [0.0, value]]), torch.tensor([0, 1]))
    with pytest.raises(TrainingError, match=rf"image 1 of 2 .* with {value}, need finite"):
        grader.compute()


def test_nothing_to_grade_is_an_error():
    with pytest.raises(DatasetError, match="no image"):
        Grader(2).compute()
    empty = Grader(2)
    empty.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DatasetError, match="no image"):
        empty.compute()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), r"need \(B, 3\)"),
        (torch.zeros(3), torch.zeros(2, dtype=torch.int64), r"need \(B, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "float type"),
        (torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64), r"need \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2), "int64"),
    ],
)
def test_another_shape_or_type_is_refused_at_once(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        Grader(3).update(logits, labels)


def test_a_grader_of_one_class_is_refused():
    with pytest.raises(ValueError, match="n_classes 1, need at least 2"):
        Grader(1)
