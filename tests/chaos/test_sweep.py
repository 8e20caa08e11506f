"""A sweep in a real yard: killed in the middle, gone on with, its trials below one run in MLflow; and one cancelled."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from deployments.services.service import free_port
from tests.chaos.yard import ROOT, Yard, yard
from tests.samples import small_classification, write_bands

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

SPACE = """
train.learning_rate: {low: 1e-6, high: 1e-2, log: true}
train.batch_size: {low: 2, high: 8, step: 2}
train.optimizer: {choices: [adam, sgd]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port(), n_gpus=1) as running:
        running.deploy_classification()
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_bands(folder / "bands")
    (folder / "space.yaml").write_text(SPACE)
    (folder / "shared.yaml").write_text(json.dumps({**small_classification(20), "data": str(folder / "bands")}))
    return folder


def command(made: Yard, *words: str) -> subprocess.Popen[bytes]:
    """Start `yard` with these words; what it prints goes to sweep.log of the home."""
    with (made.home / "sweep.log").open("ab") as log:
        argv = [sys.executable, "-m", "deployments.cli.app", *words]
        return subprocess.Popen(argv, env=made.env, stdout=log, stderr=log, cwd=ROOT)


def begin(made: Yard, files: Path, name: str, trials: int) -> subprocess.Popen[bytes]:
    shared, space = str(files / "shared.yaml"), str(files / "space.yaml")
    words = ["sweep", "classification", "--file", shared, "--space", space, "--name", name, "--trials", str(trials)]
    return command(
        made, *words, "--parallel", "2", "--prune-after", "1", "--metric", "loss/val", "--direction", "minimize"
    )


def runs_of(made: Yard, name: str) -> list[dict[str, Any]]:
    """Return the runs of a sweep's trials, without their stages."""
    body = {"flow_runs": {"name": {"like_": f"{name}-"}, "parent_task_run_id": {"is_null_": True}}}
    return [run for run in made.post("/flow_runs/filter", body) if run["parent_task_run_id"] is None]


def table(made: Yard, name: str) -> list[dict[str, str]]:
    path = made.home / "sweeps" / name / "trials.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def test_a_killed_sweep_goes_on_with_the_runs_that_it_had_started(made, files):
    killed = begin(made, files, "bands-sweep", 6)
    made.until(lambda: any(row["state"] != "running" for row in table(made, "bands-sweep")), 400, "a trial has ended")
    killed.kill()
    killed.wait()
    before = {run["id"] for run in runs_of(made, "bands-sweep")}
    assert len(before) >= 2
    assert command(made, "sweep", "--resume", "bands-sweep").wait(500) == 0, made.tails()
    rows, runs = table(made, "bands-sweep"), {run["id"]: run for run in runs_of(made, "bands-sweep")}
    print((made.home / "sweep.log").read_text())
    assert len(rows) == len(runs) == 6  # no twin of those that it found again
    assert before <= runs.keys()
    assert {row["run"] for row in rows} == runs.keys()
    states = {"complete": "COMPLETED", "pruned": "CANCELLED"}
    assert all(runs[row["run"]]["state_type"] == states[row["state"]] for row in rows)
    assert any(row["state"] == "complete" for row in rows)

    client = mlflow.MlflowClient(made.env["MLFLOW_TRACKING_URI"])
    (experiment,) = client.search_experiments(filter_string="name = 'bands'")
    tracked = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in tracked if run.info.run_name == "bands-sweep"]
    assert parent.info.status == "FINISHED"
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} >= {
        "best.yaml",
        "trials.csv",
        "parallel_coordinates.png",
    }
    nested = [run for run in tracked if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["sweep.trial"] for run in nested) == ["0", "1", "2", "3", "4", "5"]
    assert all("loss/val" in run.data.metrics for run in nested)  # those that were ended early keep theirs

    best = min((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["loss/val"]))
    submitted = command(
        made, "submit", "classification", "-f", str(made.home / "sweeps/bands-sweep/best.yaml"), "--name", "the best"
    )
    assert submitted.wait(120) == 0, made.tails()
    (run,) = [found for found in made.post("/flow_runs/filter", {}) if found["name"] == "the best"]
    assert run["parameters"]["train"]["learning_rate"] == float(best["train.learning_rate"])
    made.cancel(run["id"])


def test_a_stopped_sweep_goes_on_with_more_trials_and_a_cancelled_one_cancels_them_and_ends_its_process(made, files):
    begun = begin(made, files, "given-up", 1)
    made.until(lambda: len(runs_of(made, "given-up")) == 1, 300, "a trial is in the queue")
    begun.send_signal(signal.SIGINT)
    assert begun.wait(100) == 130
    assert "`yard sweep --resume given-up` goes on" in (made.home / "sweep.log").read_text()
    sweeping = command(made, "sweep", "--resume", "given-up", "--trials", "6")
    made.until(lambda: len(runs_of(made, "given-up")) == 2, 300, "a second one is in the queue")
    assert command(made, "sweep", "--cancel", "given-up").wait(300) == 0, made.tails()
    assert sweeping.wait(100) == 1
    made.until(
        lambda: {run["state_type"] for run in runs_of(made, "given-up")} == {"CANCELLED"}, 120, "both are cancelled"
    )
    assert [row["note"] for row in table(made, "given-up")] == ["the sweep was cancelled"] * 2
    assert command(made, "sweep", "--resume", "given-up").wait(120) == 1
