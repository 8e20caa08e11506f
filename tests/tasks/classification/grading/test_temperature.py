"""A temperature makes a model as sure as it is right."""

import numpy as np
import pytest

from tasks.classification.grading.temperature import fit_temperature


def drawn(temperature, n=40_000, seed=0):
    """Return logits and labels drawn with the probabilities softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 4))
    scaled = np.exp(logits / temperature)
    shares = scaled / scaled.sum(axis=1, keepdims=True)
    labels = (rng.random((n, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=3)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    # The error of a maximum-likelihood estimate from 40,000 draws; 3 % is beyond four of its deviations.
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_the_loss_is_no_smaller_at_any_other():
    logits, labels = drawn(2.0, n=500)

    def loss(t):
        scaled = logits / t
        return (np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(500), labels]).mean()

    found = fit_temperature(logits, labels)
    assert all(loss(found) <= loss(found * factor) for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2))


def test_pictures_that_are_all_answered_rightly_tell_nothing():
    logits = np.eye(3)[[0, 1, 2, 0]] * 5
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) is None


def test_answers_that_are_always_wrong_tell_nothing():
    logits = np.eye(3)[[0, 1, 2, 0]] * 5
    assert fit_temperature(logits, np.array([1, 2, 0, 1])) is None


def test_large_logits_do_not_overflow():
    logits, labels = drawn(1.0, n=2000)
    assert fit_temperature(1e2 * logits.astype(np.float32), labels) is None  # beyond 20
    assert fit_temperature(10 * logits.astype(np.float32), labels) == pytest.approx(10, rel=0.15)
