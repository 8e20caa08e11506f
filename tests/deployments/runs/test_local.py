"""What a run is given is checked before anything starts, with the name of every field that is wrong."""

from pathlib import Path

import pytest

from deployments.runs.flow_list import entrypoints, load_flow
from deployments.runs.local import check_parameters
from tasks.base.errors import ConfigError
from tasks.classification.params import SplitParams, TrainParams


def faults(name, parameters):
    with pytest.raises(ConfigError) as caught:
        check_parameters(load_flow(name), parameters)
    return str(caught.value).splitlines()


def test_flows_are_known_by_their_name():
    assert {"classification", "prepare_dataset", "train_classifier", "splatting", "predict"} <= set(entrypoints())
    for name in entrypoints():
        assert load_flow(name).name == name


def test_an_unknown_flow_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="found no flow 'classify', have: .*classification, .*train_c"):
        load_flow("classify")


def test_parameters_become_the_models_of_the_flow():
    given = {"data": "/d", "split": {"seed": 3}, "train": {"image_size": "(64, 64)"}}
    assert check_parameters(load_flow("classification"), given) == {
        "data": Path("/d"),
        "split": SplitParams(seed=3),
        "train": TrainParams(image_size=64),
    }


def test_the_parts_of_a_dataset_may_lie_apart():
    given = {"data": {"train": "/a", "val": "/b"}}
    assert check_parameters(load_flow("prepare_dataset"), given) == {"data": {"train": Path("/a"), "val": Path("/b")}}


def test_parameters_that_prefect_kept_can_be_taken_again():
    flow = load_flow("classification")
    checked = check_parameters(flow, {"data": "/d", "train": {"num_epochs": 3}})
    assert check_parameters(flow, flow.serialize_parameters(checked)) == checked


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"train": {"num_epochs": 0}}, "train.num_epochs: found 0: Input should be greater than or equal to 1"),
        ({"train": {"epochs": 3}}, "train.epochs: found 3: Extra inputs are not permitted"),
        ({"train": 3}, "train: found 3: Input should be a valid dictionary or instance of TrainParams"),
        ({"split": {"train_ratio": "most"}}, "split.train_ratio: found 'most': Input should be a valid number"),
        ({"train": {"image_size": [64, 32]}}, "train.image_size: found the size (64, 32), need a square one"),
        ({"train": {"train_path": "/a"}}, "train: found one of train_path and val_path, need both or neither"),
        ({"augment": {"methods": ["Blur"]}}, "augment.methods.0: found 'Blur': Input should be 'AdvancedBlur', "),
        ({"augment": {"Sharpen": {"alfa": 1}}}, "augment.Sharpen.alfa: found 1: Extra inputs are not permitted"),
        ({"data": 5}, "data: found 5: Input is not a valid path"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found_and_what_is_needed(given, fault):
    (line,) = faults("classification", given)
    assert line.startswith(fault)


def test_every_wrong_value_has_a_line_of_its_own():
    lines = faults(
        "classification", {"seed": 1, "train": {"model": "resnet19", "batch_size": 0}, "track": {"experiment": ""}}
    )
    assert [line.partition(":")[0] for line in lines] == ["seed", "train.batch_size", "train.model", "track.experiment"]
    assert lines[0] == (
        "seed: found a parameter that classification does not have; have: data, split, augment, train, evaluate, track"
    )
    assert "'resnet18', 'resnet34'" in lines[2]


def test_a_value_that_is_needed_is_named():
    assert faults("prepare_dataset", {}) == ["data: found nothing, need a value"]


def test_a_wrong_name_of_a_part_is_said_in_words_a_person_knows():
    lines = faults("prepare_dataset", {"data": {"train": "/a", "valid": "/b"}})
    assert any("'valid': Input should be 'train', 'val' or 'test'" in line for line in lines)
    assert not any("lax" in line or "function-after" in line for line in lines)
