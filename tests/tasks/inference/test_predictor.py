"""Answers come in order, whatever fails on the way, and neither memory nor threads are left behind."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.base.errors import DatasetError, ImageError, WeightsError
from tasks.inference.predictor import Predictor, answers
from tasks.inference.sources import PendingImage

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Answers with the mean of the pixels, and remembers how many images came at once."""

    def __init__(self, room=10**9):
        super().__init__()
        self.room, self.sizes = room, []

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(x))
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], 1)


def grey(i, delay=0.0):
    def pixels():
        time.sleep(delay)
        if i < 0:
            raise ImageError("damaged: x.jpg")
        return np.full((20, 30, 3), i, np.uint8)

    return PendingImage(Path(f"{i}.png"), None, pixels)


def run(values, model=None, batch=4, **options):
    model = model or Brightness()
    todo = (grey(i, 0.01 * (i % 3)) for i in values)
    return [a for rows in answers(todo, Predictor(model, CPU, "fp32"), 16, batch, **options) for a in rows]


@pytest.mark.parametrize("n_workers", [1, 4])
def test_answers_come_in_the_order_of_the_jobs(n_workers):
    found = run(range(11), n_workers=n_workers)
    assert [a.path for a in found] == [f"{i}.png" for i in range(11)]
    assert all(np.diff([a.logits[0] for a in found]) > 0)
    assert {a.size for a in found} == {(30, 20)}
    assert {a.pixels.shape for a in found} == {(16, 16, 3)}
    assert all(a.seconds > 0 for a in found)


def test_a_picture_that_cannot_be_used_is_named_and_the_rest_goes_on():
    found = run([0, 1, -1, 3, 4, -1])
    assert [a.error for a in found] == [None, None, "damaged: x.jpg", None, None, "damaged: x.jpg"]
    assert [a.logits is None for a in found] == [False, False, True, False, False, True]
    assert found[3].logits[0] == run([3])[0].logits[0]


def test_a_batch_without_a_good_picture_never_meets_the_model():
    model = Brightness()
    assert len(run([-1] * 5, model)) == 5
    assert model.sizes == []


def test_out_of_memory_halves_the_batch_and_later_ones_stay_small():
    model = Brightness(room=3)
    found = run(range(16), model, batch=8)
    assert [a.logits[0] for a in found] == [a.logits[0] for a in run(range(16))]
    assert model.sizes == [2] * 8


def test_a_picture_too_large_for_the_memory_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        run(range(4), Brightness(room=0))


def test_answers_that_are_not_finite_are_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), torch.nan)

    with pytest.raises(WeightsError, match="answers with nan"):
        run(range(4), Broken())


def test_an_error_of_the_source_reaches_the_reader():
    def todo():
        yield grey(1)
        raise DatasetError("the file shrank")

    with pytest.raises(DatasetError, match="the file shrank"):
        list(answers(todo(), Predictor(Brightness(), CPU, "fp32"), 16, 1))


def test_no_more_than_a_few_batches_are_prepared_ahead():
    taken = []

    def todo():
        for i in range(1000):
            taken.append(i)
            yield grey(i % 200)

    batches = answers(todo(), Predictor(Brightness(), CPU, "fp32"), 16, 4, n_workers=2)
    next(batches)
    time.sleep(0.5)
    # The batch taken, two that wait, one that is being put, and four jobs per thread.
    assert len(taken) <= 4 * 4 + 4 * 2 + 4
    batches.close()


def test_who_stops_early_leaves_no_thread():
    before = set(threading.enumerate())
    batches = answers((grey(i % 200) for i in range(1000)), Predictor(Brightness(), CPU, "fp32"), 16, 4)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before
