"""Schedules, weights and averages, in metrics one can work out by hand."""

import os

import pytest
import torch
from torch import nn

from tasks.classification.params import TrainParams
from tasks.classification.training.class_weights import balanced_weights
from tasks.training.optim import MovingAverage, build_optimizer, deterministic, learning_rate


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero():
    params = TrainParams(num_epochs=10, learning_rate=1.0, schedule="cosine", warmup_epochs=2)
    rates = [learning_rate(params, step, steps_per_epoch=5) for step in range(50)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.5)
    assert rates[49] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_a_schedule_the_rate_stays():
    params = TrainParams(num_epochs=2, learning_rate=3e-4)
    assert {learning_rate(params, step, 5) for step in range(10)} == {3e-4}


def test_balanced_weights_are_inverse_to_the_counts_and_average_to_one_over_the_images():
    labels = [0, 0, 0, 1]
    weights = balanced_weights(labels, 2)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])
    assert weights[labels].mean().item() == pytest.approx(1.0)


def test_the_average_follows_quickly_at_first_and_copies_the_buffers():
    model, copy = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    average = MovingAverage(model, copy, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(11.0)
        model.running_mean.fill_(5.0)
    average.update(0)  # decay min(0.9, 1/10)
    assert average.model.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    assert average.model.running_mean.item() == 5.0
    average.update(10**6)
    assert average.model.weight.item() == pytest.approx(0.9 * 10.0 + 0.1 * 11)


def test_the_average_of_a_model_without_buffers_follows_as_well():
    model, copy = nn.Linear(2, 1), nn.Linear(2, 1)
    average = MovingAverage(model, copy, decay=0.9)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1.0
    average.update(0)
    torch.testing.assert_close(average.model.weight.detach(), before + 0.9)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_biases_and_norms_are_not_decayed(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = build_optimizer(model, TrainParams(optimizer=name, weight_decay=0.5))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.5, 0, 0, 0]


def test_determinism_holds_for_the_block_and_sets_up_cublas(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
