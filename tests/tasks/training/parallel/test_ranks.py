"""What each of several processes computes: together everything, nothing twice, in the order of one."""

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.parallel.ranks import ALONE, Ranks


@given(n=st.integers(0, 300), size=st.integers(1, 9))
def test_slices_cover_a_batch_in_order_and_are_of_equal_length_but_for_one(n, size):
    bounds = [Ranks(rank, size).bounds(n) for rank in range(size)]
    assert [index for bound in bounds for index in range(*bound)] == list(range(n))
    lengths = [stop - start for start, stop in bounds]
    assert max(lengths) - min(lengths) <= 1


@given(lengths=st.lists(st.integers(1, 9), max_size=20), size=st.integers(1, 5))
def test_turns_cover_all_batches_once(lengths, size):
    batches = [np.arange(length) + 100 * number for number, length in enumerate(lengths)]
    turns = [Ranks(rank, size).whole_batches(batches) for rank in range(size)]
    again = [batch for row in itertools.zip_longest(*turns) for batch in row if batch is not None]
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


def test_slices_of_batches_together_are_the_batches():
    batches = [np.arange(7), np.arange(7, 9)]
    parts = [Ranks(rank, 3).slices(batches) for rank in range(3)]
    assert [np.concatenate(each).tolist() for each in zip(*parts, strict=True)] == [list(range(7)), [7, 8]]


def test_one_process_alone_exchanges_nothing():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert ALONE.wrapped(model) is model
    assert type(model[1]) is torch.nn.BatchNorm2d
    assert ALONE.firsts(0.1, 0.2) == (0.1, 0.2)
    assert ALONE.add_up(torch.ones(2)).tolist() == [1, 1]
    before = torch.get_rng_state()
    ALONE.reseed(0, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_others_draw_is_a_function_of_seed_step_and_process():
    drawn = {}
    for rank, step in itertools.product((1, 2), (3, 4)):
        Ranks(rank, 3).reseed(7, step)
        drawn[rank, step] = torch.rand(4).tolist()
    Ranks(1, 3).reseed(7, 3)
    assert torch.rand(4).tolist() == drawn[1, 3]
    assert len({tuple(values) for values in drawn.values()}) == 4
