"""Trainers that know nothing of the yard, under `yard exec` on real servers: what they log lands in the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.timeout(900)

YARD = Path(sys.executable).parent / "yard"

SKLEARN = """
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

mlflow.sklearn.autolog(log_models=False, log_datasets=False)
LogisticRegression(max_iter=200, C=0.5).fit(*load_iris(return_X_y=True))
"""
TORCH = """
import mlflow
import torch

mlflow.pytorch.autolog(log_models=False)
torch.manual_seed(0)
x = torch.randn(64, 4)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(20):
    loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mlflow.log_metric("loss", loss.item(), step=step)
mlflow.log_param("rate", 0.1)
"""
CALLBACK = """
import mlflow
from mlflow import MlflowClient

with mlflow.start_run() as run:  # as the callbacks of most trainers do
    for epoch in range(3):
        MlflowClient().log_metric(run.info.run_id, "val_accuracy", 0.5 + 0.1 * epoch, step=epoch)
    with open("notes.txt", "w") as file:
        file.write("done")
    mlflow.log_artifact("notes.txt")
"""


@pytest.fixture
def run_program(yard, tracking, tmp_path, monkeypatch):
    """Return a function that runs a script by `yard exec`, and returns its run in Prefect and in MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)

    def run(name: str, script: str):
        (tmp_path / f"{name}.py").write_text(script)
        words = [YARD, "exec", "--device", "cpu", "--name", name, "--", sys.executable, f"{name}.py"]
        done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = json.loads(subprocess.run([YARD, "show", name, "--json"], capture_output=True, check=True).stdout)
        (found,) = programs(tracking, name)
        return shown, found

    return run


def programs(tracking: str, name: str):
    """Return the runs of a name in MLflow, of whatever experiment."""
    client = MlflowClient(tracking)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(experiments, f"attributes.run_name = '{name}'")


def test_autologging_of_scikit_learn_lands_in_the_run(run_program, tracking):
    shown, found = run_program("iris", SKLEARN)
    assert found.info.run_id in json.dumps(shown["mlflow"])
    assert (shown["state"], found.info.status) == ("Completed", "FINISHED")
    assert found.data.params["C"] == "0.5"
    assert found.data.metrics["training_accuracy_score"] > 0.9
    every = MlflowClient(tracking).search_runs([found.info.experiment_id])
    assert [run.info.run_id for run in every if "training_accuracy_score" in run.data.metrics] == [found.info.run_id]


@pytest.mark.parametrize(
    ("name", "script", "metric", "n"), [("linear", TORCH, "loss", 20), ("callback", CALLBACK, "val_accuracy", 3)]
)
def test_what_a_training_loop_logs_lands_in_the_run(run_program, tracking, name, script, metric, n):
    shown, found = run_program(name, script)
    assert (shown["state"], found.info.status) == ("Completed", "FINISHED")
    rows = MlflowClient(tracking).get_metric_history(found.info.run_id, metric)
    assert [row.step for row in rows] == list(range(n))
    assert found.info.run_id in json.dumps(shown["mlflow"])
