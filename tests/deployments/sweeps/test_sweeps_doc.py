"""What docs/sweeps.md says is so."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.runs.flow_list import load_flow
from deployments.runs.flow_parameters import flow_parameters
from deployments.sweeps.objective import check_moves, objective_of
from deployments.sweeps.space import check_space, parse_space
from tasks.base.errors import ConfigError

PAGE = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text()


def test_the_space_in_the_page_is_one_of_the_classification():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    space = parse_space(yaml.safe_load(text), flow_parameters("classification"))
    assert len(space) == 3
    check_space(space, load_flow("classification"), {"data": "/data", "train": {"num_epochs": 30}})


def test_the_error_in_the_page_is_what_is_said():
    space = parse_space({"train.learning_rate": {"low": -1, "high": 1}}, flow_parameters("classification"))
    with pytest.raises(ConfigError) as caught:
        check_space(space, load_flow("classification"), {"data": "/data"})
    assert f"*{caught.value}*" in PAGE


def test_each_flow_of_the_table_is_compared_by_what_it_says():
    rows = re.findall(r"^\| (`[^|]+) \| `([^`]+)`, (\w+) \| the (best|last)", PAGE, re.M)
    told = {flow: row[1:] for row in rows for flow in re.findall(r"`(\w+)`", row[0])}
    assert len(told) == 7
    for flow, (metric, direction, counts) in told.items():
        found = objective_of(flow, None, None)
        assert (found.metric, found.direction, found.keeps_best) == (metric, direction, counts == "best")


def test_a_flow_without_a_metric_of_its_own_needs_one():
    with pytest.raises(ConfigError, match="need --metric NAME and --direction"):
        objective_of("predict", None, None)
    with pytest.raises(ConfigError, match="need --direction maximize or minimize with it"):
        objective_of("classification", "loss/val", None)
    with pytest.raises(ConfigError, match="found --direction up"):
        objective_of("classification", "loss/val", "up")
    assert objective_of("predict", "speed", "maximize").direction == "maximize"


def test_the_options_of_the_page_are_those_of_the_command():
    shown = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert named <= set(re.findall(r"--[a-z-]+", shown)) | {"--help"}


@pytest.mark.parametrize(
    "words", [["sweep"], ["sweep", "classification", "--resume", "x"], ["sweep", "classification"]]
)
def test_what_does_not_go_together_is_refused(words):
    assert isinstance(CliRunner().invoke(app, words).exception, ConfigError)


def test_a_parameter_of_a_training_that_the_metric_does_not_see_is_refused():
    of_detector = objective_of("recognition", None, None)
    with pytest.raises(
        ConfigError, match=r"index\.loss: found map/val .* need --metric recall/val_1 --direction maximize"
    ):
        check_moves("recognition", of_detector, ["detector.seed", "index.loss"])
    check_moves("recognition", objective_of("recognition", "recall/val_1", "maximize"), ["index.loss", "render.seed"])
