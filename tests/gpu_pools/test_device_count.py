"""How many devices the parameters of a run ask for, and with what names of devices that goes together."""

import pytest

from gpu_pools.device_count import check_device_count, device_count, with_device_count
from tasks.base.errors import ConfigError


@pytest.mark.parametrize(
    ("parameters", "n"),
    [
        ({}, 1),
        ({"train": {"n_devices": 4}, "evaluate": {"n_devices": 2}}, 4),
        ({"n_devices": 4, "data": "/data"}, 1),  # not of a model
        ({"train": {"n_devices": 0}}, 1),
        ({"train": {"n_devices": "4"}}, 1),
        ({"train": {"n_devices": True}}, 1),
        ({"train": {"inner": {"n_devices": 4}}}, 1),
    ],
)
def test_the_most_that_a_model_among_the_parameters_says_counts(parameters, n):
    assert device_count(parameters) == n


@pytest.mark.parametrize("device", ["cuda:1", "cpu", "boxb/cuda:1", "boxb/cpu"])
def test_several_devices_by_the_name_of_one_are_refused(device):
    said = f"found train.device={device} with train.n_devices=2, need cuda, or HOST/cuda"
    with pytest.raises(ConfigError) as exc:
        check_device_count({"train": {"n_devices": 2, "device": device}})
    assert str(exc.value) == said


@pytest.mark.parametrize(
    "section", [{"device": "cuda"}, {"device": "boxb/cuda"}, {}, {"device": "cpu", "n_devices": 1}]
)
def test_any_gpus_and_one_device_pass(section):
    check_device_count({"train": {"n_devices": 2, **section}, "data": "/data"})


def test_a_run_can_be_given_another_number_of_devices():
    parameters = {"data": "/d", "train": {"n_devices": 4, "device": "boxb/cuda", "num_epochs": 2}}
    assert with_device_count(parameters, ["train"], 1)["train"] == {**parameters["train"], "n_devices": 1}
    assert with_device_count({"data": "/d"}, ["train"], 2) == {"data": "/d", "train": {"n_devices": 2}}
    with pytest.raises(ConfigError, match="found train.device=cpu with train.n_devices=2"):
        with_device_count({"train": {"device": "cpu"}}, ["train"], 2)
