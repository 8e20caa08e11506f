import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.training.promotion_rule import Rules, common_files, decide, probability_better

NAMES = ["a", "b", "c"]


def decision(champion, challenger, labels, **options):
    rules = Rules(options.pop("class_margin", 0.05), options.pop("confidence", 0.95))
    names = options.pop("class_names", NAMES)
    champion = None if champion is None else np.asarray(champion)
    return decide(champion, np.asarray(challenger), np.asarray(labels), names, rules, **options)


def answers(labels, n_wrong):
    """Return answers of which the first n_wrong are wrong."""
    predicted = np.array(labels)
    predicted[:n_wrong] = (predicted[:n_wrong] + 1) % 3
    return predicted


LABELS = np.arange(300) % 3


def test_the_first_model_becomes_champion():
    found = decision(None, LABELS, LABELS)
    assert found.promote
    assert found.reason == "promoted: there is no champion yet"
    assert found.accuracy_champion is None


def test_a_clearly_better_model_takes_over_and_the_figures_are_told():
    found = decision(answers(LABELS, 60), answers(LABELS, 15), LABELS)
    assert found.promote
    assert (found.accuracy_champion, found.accuracy_challenger) == (0.8, 0.95)
    assert found.probability_better == 1.0
    assert found.reason == (
        "promoted: better, and no class loses more than 0.050 of recall; accuracy 0.9500 against the "
        "champion's 0.8000 on 300 test files, better in 100.0% of 2000 bootstrap draws"
    )


@pytest.mark.parametrize("n_wrong", [30, 29, 31, 90])
def test_a_model_that_is_equal_hardly_better_or_worse_does_not_take_over(n_wrong):
    found = decision(answers(LABELS, 30), answers(LABELS, n_wrong), LABELS)
    assert not found.promote
    assert found.reason.startswith("champion kept: the challenger must be better in 95.0% of the draws")


def test_a_better_model_that_loses_a_class_does_not_take_over():
    champion = np.where(LABELS == 0, 1, LABELS)  # never answers a
    challenger = LABELS.copy()
    challenger[LABELS == 2] = np.where(np.arange(100) < 10, 0, 2)  # loses a tenth of c
    found = decision(champion, challenger, LABELS)
    assert found.probability_better == 1.0
    assert not found.promote
    assert found.falls == {"c": pytest.approx(0.1)}
    assert "the recall of 'c' falls by 0.100, allowed 0.050" in found.reason


def test_a_fall_of_exactly_the_margin_is_allowed():
    champion = np.where(LABELS == 0, 1, LABELS)
    challenger = LABELS.copy()
    challenger[LABELS == 2] = np.where(np.arange(100) < 10, 0, 2)
    assert decision(champion, challenger, LABELS, class_margin=0.1).promote


def test_files_the_champion_was_trained_on_are_left_out_and_counted():
    mask = common_files({"x1", "x3"}, ["x0", "x1", "x2", "x3"])
    assert mask.tolist() == [True, False, True, False]
    found = decision([0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], mask=mask)
    assert (found.n_compared, found.accuracy_champion, found.accuracy_challenger) == (2, 0, 1)
    assert "on 2 test files (2 left out because the champion was trained on them)" in found.reason


def test_no_file_in_common_keeps_the_champion():
    found = decision([0, 1], [0, 1], [0, 1], mask=np.array([False, False]))
    assert not found.promote
    assert "no test file to compare on, 2 left out" in found.reason
    empty = np.zeros(0, dtype=np.int64)
    assert "no test file" in decision(empty, empty, empty).reason


def test_other_classes_keep_the_champion_and_are_named():
    found = decision(LABELS, LABELS, LABELS, champion_classes=["a", "b", "x"])
    assert not found.promote
    assert "only the champion knows x and only the challenger knows c" in found.reason


def test_the_same_classes_in_another_order_are_compared_by_name():
    order = ["c", "a", "b"]
    theirs = np.array([order.index(NAMES[label]) for label in LABELS])
    found = decision(theirs, answers(LABELS, 100), LABELS, champion_classes=order)
    assert found.accuracy_champion == 1.0


def test_the_same_seed_gives_the_same_decision():
    pair = answers(LABELS, 40), answers(LABELS, 30)
    assert decision(*pair, LABELS) == decision(*pair, LABELS)


def test_draws_agree_with_a_bootstrap_that_resamples_every_file():
    rng = np.random.default_rng(0)
    old, new = rng.random(80) < 0.7, rng.random(80) < 0.75
    picks = rng.integers(0, 80, (20_000, 80))
    naive = np.mean(new[picks].sum(1) > old[picks].sum(1))
    assert probability_better(old, new, seed=1, n_draws=20_000) == pytest.approx(naive, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200), st.integers(0, 1000))
def test_not_both_of_two_models_are_better_than_the_other(pairs, seed):
    old, new = (np.array(column) for column in zip(*pairs, strict=True))
    forth = probability_better(old, new, seed=seed, n_draws=500)
    back = probability_better(new, old, seed=seed + 1, n_draws=500)
    assert 0 <= forth <= 1
    assert forth + back <= 1.2  # independent draws, so up to their noise
    if not (new & ~old).any():
        assert forth == 0


def test_equal_accuracy_with_different_mistakes_is_never_promoted():
    champion, challenger = LABELS.copy(), LABELS.copy()
    champion[:60] = (champion[:60] + 1) % 3
    challenger[-60:] = (challenger[-60:] + 1) % 3
    found = decision(champion, challenger, LABELS)
    assert 0.4 < found.probability_better < 0.6
    assert not found.promote


def test_ten_thousand_files_are_decided_in_a_moment():
    labels = np.arange(10_000) % 3
    started = time.perf_counter()
    decision(answers(labels, 900), answers(labels, 700), labels)
    assert time.perf_counter() - started < 0.5


def test_arrays_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2 answers of the champion, 3 of the challenger"):
        decision([0, 1], [0, 1, 2], [0, 1, 2])
