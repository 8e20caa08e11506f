"""`yard sync` sends what runs have kept for MLflow, and says per run what it sent."""

import json
import logging

import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.runs.sync import count_unsent, sync
from tasks.classification.params import EvaluateParams
from tasks.run.postponed import settle_postponed
from tasks.tracking import mlflow_api
from tasks.tracking.journal import read_card
from tasks.tracking.tracker import Tracker

LOG = logging.getLogger("tests")

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, with MLflow away."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_DATABASE", "sqlite")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    monkeypatch.setattr("tasks.tracking.tracker._CONNECT_S", 0.2)
    monkeypatch.setattr("tasks.tracking.tracker._END_PATIENCE_S", 0.2)
    return tmp_path


def run_without_mlflow(home, run: str) -> Tracker:
    (home / "weights.txt").write_text("w")
    with Tracker.open(home / "runs" / run / "training", "synced", run, {"lr": 1}) as tracker:
        tracker.metrics({"loss": 0.5, "accuracy": 0.9}, step=1)
        tracker.artifact(home / "weights.txt", "weights")
    return tracker


def call(*words: str):
    return CliRunner().invoke(app, [*words], catch_exceptions=False)


def test_a_run_whose_mlflow_was_away_ends_well_and_is_sent_later(home, monkeypatch):
    ended = [run_without_mlflow(home, run) for run in ("one", "two")]
    assert ended[0].known_id is None
    assert "`yard sync one`" in ended[0].unsent
    assert count_unsent() == 2
    away = call("sync")
    assert away.exit_code == 1
    assert f"run one, training: MLflow at {NOBODY} does not answer" in away.output

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sent = call("sync", "one")
    assert sent.exit_code == 0
    run_id = read_card(home / "runs" / "one" / "training").run_id
    # The parameters' file and the weights; begin, parameters, tags and the end.
    assert sent.output.endswith(f"run one, training: sent to MLflow run {run_id}: 2 values, 2 files, 4 others\n")
    found = mlflow_api.client().get_run(run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 0.5, "accuracy": 0.9})
    assert count_unsent() == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rest = json.loads(call("sync", "--json").output)
    assert [(one["run"], one["left"], one["sent"]["n_rows"]) for one in rest] == [("two", False, 2)]
    assert call("sync").output == "MLflow has all of it: nothing to send\n"
    assert count_unsent() == 0


def test_a_run_that_nobody_knows_is_refused(home, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = CliRunner().invoke(app, ["sync", "nobody"])
    assert done.exit_code == 1


@pytest.mark.yard
def test_what_was_postponed_becomes_one_run_in_its_queue_of_the_same_owner(yard):
    parameters = {"dataset": "/d", "evaluate": EvaluateParams(), "save_path": None}
    first = yard.create("train_classifier", parameters={"dataset": "/d"}, job_variables={"owner": "anna@boxa"})["id"]
    settle_postponed(first, "MLflow is away", "report_classifier", parameters | {"run": first}, LOG)
    told = [next(sync(first)) for _ in range(2)]
    assert told[0] == told[1]
    assert not told[0].left
    run = yard.read(told[0].text.split()[1])
    assert (run["state_type"], run["job_variables"]["owner"]) == ("SCHEDULED", "anna@boxa")
    assert run["parameters"]["run"] == first
    yard.state(run["id"], "FAILED")
    assert f"run {run['id']} was to do it and is Failed" in next(sync(first)).text
