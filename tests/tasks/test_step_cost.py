"""A training step calls a GPU seldom and never waits for it: counted, so that a wait which comes back is seen."""

import os

import pytest

from benchmarks.step_cost import MOST_LAUNCHES, splat_step, train_steps

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("counted where kernels are interpreted, on a machine without a GPU", allow_module_level=True)


def test_a_step_of_a_fit_has_few_launches_and_no_wait():
    calls = splat_step(opacity_reg=0.01, scale_reg=0.01)
    assert calls.launches.total() <= MOST_LAUNCHES
    assert not calls.waits
    assert {"_compare", "_gather", "_total", "_activate", "_color", "_back", "_adam_six", "_shake"} <= set(
        calls.launches
    )


def test_fitting_poses_and_exposures_and_the_classic_strategy_wait_for_nothing():
    calls = splat_step(pose_opt=True, exposure_opt=True, antialiased=True, strategy="default")
    # The two optimisers of torch look at their counts of steps, which lie on the host for a GPU as well.
    assert calls.waits == {"_local_scalar_dense": 2}


def test_a_step_of_a_training_waits_for_nothing_between_the_ends_of_epochs():
    assert not train_steps().waits


def test_a_wait_would_be_seen():
    import torch

    from benchmarks.step_cost import Calls

    with Calls() as calls:
        values = torch.arange(3.0)
        float(values.sum())
        values[values > 1].sum()
        values.tolist()
        values.cpu()
        values.numpy()
        torch.tensor([1.0], device="cpu")
        torch.as_tensor([1.0], device="cpu")
        values.unique()
        torch.bincount(values.long())
        torch.repeat_interleave(values, values.long())
    assert calls.waits.total() == 10
