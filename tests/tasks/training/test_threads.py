"""How many threads a training on the CPU computes in."""

import os

import pytest
import torch

from tasks.training import threads


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    torch.set_num_threads(4)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("seconds", "n"),
    [
        ({4: 0.010, 2: 0.014, 1: 0.025}, 4),
        ({4: 0.030, 2: 0.025, 1: 0.025}, 4),  # by chance
        ({4: 0.300, 2: 0.020, 1: 0.025}, 2),
        ({4: 0.300, 2: 0.200, 1: 0.025}, 1),
    ],
)
def test_fewer_threads_are_taken_where_they_are_much_faster(seconds, n, monkeypatch):
    asked = []
    monkeypatch.setattr(threads, "_measured", lambda counts: asked.extend(counts) or seconds)

    said = threads.choose_threads()

    assert asked == [4, 2, 1]
    assert torch.get_num_threads() == n
    assert bool(said) == (n < 4)
    assert not said or said.startswith(f"computes in {n} of 4 threads") and "300 ms in 4" in said


def test_the_measurement_draws_no_number_of_the_training():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    seconds = threads._measured([2, 1])

    assert torch.equal(torch.rand(4), expected)
    assert set(seconds) == {1, 2}
    assert min(seconds.values()) > 0
