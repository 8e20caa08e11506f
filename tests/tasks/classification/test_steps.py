"""What the steps refuse, and what they keep of a run that fails; called as plain functions."""

import logging

import pytest

from tasks.base.errors import ConfigError
from tasks.classification import steps
from tasks.classification.params import SplitParams, TrackParams, TrainParams
from tasks.tracking import mlflow_api
from tasks.tracking.journal import read_card


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A state folder and one allowed root."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(tmp_path / "allowed"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "allowed").mkdir()
    return tmp_path


@pytest.mark.parametrize("field", ["weight_path", "save_path"])
def test_files_of_a_training_must_lie_under_the_allowed_roots(roots, field):
    params = TrainParams(**{field: roots / "elsewhere", "device": "cpu", "pretrained": False})
    with pytest.raises(ConfigError, match="elsewhere leads outside the allowed roots"):
        steps.check_start.fn(roots / "allowed", params)
    with pytest.raises(ConfigError, match="elsewhere leads outside the allowed roots"):
        steps.train.fn(roots / "allowed", params, None, TrackParams(), "r")


def test_the_csv_of_the_recordings_must_lie_under_the_allowed_roots(roots):
    with pytest.raises(ConfigError, match=r"groups\.csv leads outside the allowed roots"):
        steps.split.fn(roots / "allowed", SplitParams(group_by=str(roots / "groups.csv")), "r")


def test_a_run_that_fails_keeps_its_log(roots, monkeypatch):
    monkeypatch.setattr(logging.getLogger("trainyard"), "level", logging.INFO)
    params, track = TrainParams(device="cpu", pretrained=False), TrackParams(run_name="r")
    folder = roots / "home" / "runs" / "r"
    with pytest.raises(ValueError, match="broken"), steps.open_training_run(folder, {}, params, track) as (_, _, log):
        log.info("the last words")
        raise ValueError("broken")
    run = mlflow_api.client().get_run(read_card(folder).run_id)
    assert run.info.status == "FAILED"
    assert "the last words" in open(mlflow_api.client().download_artifacts(run.info.run_id, "log/run.log")).read()
