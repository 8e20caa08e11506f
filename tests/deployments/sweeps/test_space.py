import pytest

from deployments.runs.flow_list import load_flow
from deployments.runs.flow_parameters import flow_parameters
from deployments.sweeps.space import Choices, Range, check_space, extremes, parse_space, read_space_file, with_values
from tasks.base.errors import ConfigError


@pytest.fixture(scope="module")
def known():
    return flow_parameters("classification")


def test_a_space_has_ranges_and_choices_as_the_flow_takes_them(known, tmp_path):
    (tmp_path / "space.yaml").write_text(
        "train.learning_rate: {low: 1e-5, high: 1e-2, log: true}\n"
        "train.batch_size: {low: 4, high: 18, step: 4}\n"
        "train.optimizer: {choices: [adam, sgd]}\n"
    )
    space = parse_space(read_space_file(tmp_path / "space.yaml"), known)
    assert space == {
        "train.learning_rate": Range(1e-5, 1e-2, True, None, False),
        "train.batch_size": Range(4, 16, False, 4, True),  # 18 is not of the row
        "train.optimizer": Choices(("adam", "sgd")),
    }
    assert list(extremes(space))[2:4] == [("train.batch_size", 4), ("train.batch_size", 16)]


@pytest.mark.parametrize(
    ("name", "entry", "fault"),
    [
        ("train.learnin_rate", {"low": 1, "high": 2}, "does not have; close to it: train.learning_rate"),
        ("train", {"low": 1, "high": 2}, "found a group of parameters, need one of them: train.model"),
        ("train.learning_rate", [1], r"need {low: .., high: .., log: true, step: ..} or {choices: \[..\]}"),
        ("train.learning_rate", {"low": 1}, "found high: None, need a number"),
        ("train.learning_rate", {"low": 2, "high": 1}, "found low 2 and high 1, need low below high"),
        (
            "train.learning_rate",
            {"low": 0, "high": 1, "log": True},
            "found log: true, low 0|found log: true with low 0",
        ),
        ("train.learning_rate", {"low": 1, "high": 2, "step": 3}, "found step 3, need one above 0 and at most"),
        ("train.learning_rate", {"low": 1, "high": float("inf")}, "found high: inf, need a number"),
        ("train.batch_size", {"low": 0.5, "high": 2}, "need whole numbers"),
        ("train.optimizer", {"low": 1, "high": 2}, "need choices: it is adam | adamw | sgd"),
        ("train.optimizer", {"choices": ["adam"]}, "need a list of at least two"),
        ("train.optimizer", {"choices": ["adam", "adam"]}, "found a choice twice"),
        ("train.optimizer", {"choices": ["adam", ["sgd"]]}, r"found the choice \['sgd'\]"),
    ],
)
def test_what_is_wrong_in_a_space_is_said_with_the_parameters_name(known, name, entry, fault):
    with pytest.raises(ConfigError, match=fault) as caught:
        parse_space({name: entry}, known)
    assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "entry", "fault"),
    [
        ("train.learning_rate", {"low": -1, "high": 1}, "found -1.0: Input should be greater than 0"),
        ("train.optimizer", {"choices": ["adam", "lion"]}, "found 'lion': Input should be 'adam', 'adamw' or 'sgd'"),
        ("split.train_ratio", {"low": 0.1, "high": 0.9}, "leaves no test part"),
        ("train.num_epochs", {"low": 2, "high": 4}, "found 3 for all trials"),
    ],
)
def test_the_ends_of_a_space_are_held_against_the_flows_own_bounds(known, name, entry, fault):
    space = parse_space({name: entry}, known)
    with pytest.raises(ConfigError, match=fault) as caught:
        check_space(space, load_flow("classification"), {"data": "/data", "train": {"num_epochs": 3}})
    assert str(caught.value).startswith(f"{name}: ")


def test_values_are_put_into_a_copy_as_what_they_are():
    shared = {"train": {"num_epochs": 3}}
    values = {"train.learning_rate": 1e-5, "train.optimizer": "1e3", "train.batch_size": 4, "train.mixup": None}
    changed = with_values(shared, values)
    assert changed["train"] == {
        "num_epochs": 3,
        "learning_rate": 1e-5,
        "optimizer": "1e3",
        "batch_size": 4,
        "mixup": None,
    }
    assert shared == {"train": {"num_epochs": 3}}


def test_a_file_that_holds_no_space_is_refused(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match="such as train.learning_rate"):
        read_space_file(tmp_path / "empty.yaml")
