"""A training step calls a GPU seldom and never waits for it: counted, so that a wait which comes back is seen."""

import os

import pytest

from benchmarks.step_cost import ALL_OPTIONS, MOST_LAUNCHES, detector_steps, index_steps, splat_step, train_steps
from tests.far_device import FAR, Far

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


@pytest.mark.parametrize("options", [{}, ALL_OPTIONS, {"optimizer": "sgd"}], ids=["plain", "all options", "sgd"])
def test_a_step_of_a_training_waits_for_nothing_between_the_ends_of_epochs(options):
    assert not train_steps(**options).waits


def test_a_step_of_an_index_waits_for_nothing():
    assert not index_steps().waits


def test_a_step_of_the_small_detector_waits_for_nothing():
    assert not detector_steps().waits


@pytest.mark.parametrize("network", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_torchvisions_detectors_have_all_they_compute_with_on_the_device(network):
    # They wait to choose boxes, and image by image; an operation on tensors of two places would be refused.
    waits = detector_steps(network, n_steps=1).waits
    assert not {wait for wait in waits if wait.endswith("from the device")}


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


def test_a_far_device_counts_waits_and_refuses_tensors_of_two_places():
    import torch

    with Far() as far:
        values = torch.arange(4.0).to(FAR, non_blocking=True)
        layer = torch.nn.Linear(4, 2, device=FAR)
        far.clear()
        layer(values).sum().backward()
        assert layer.weight.grad.device == FAR
        values[values > 1] = 0.0
        assert not far.waits
        assert far.launches
        float(values.sum())
        values[values > 1].sum()
        values.cpu()
        values.tolist()
        values[torch.tensor([1])].sum()
        torch.tensor([1.0], device=FAR)
        values.copy_(torch.ones(4))
        assert far.waits.total() == 7
        with pytest.raises(RuntimeError, match="found far:0 and cpu"):
            values + torch.ones(4)
        with pytest.raises(TypeError, match="numpy"):
            values.numpy()
