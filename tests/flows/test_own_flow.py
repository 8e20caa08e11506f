"""The training of docs/your-own-flow.md runs in the yard, is killed there, and ends as if it had not been."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from deployments.apply import more_deployments
from deployments.runs.flow_list import entrypoints, load_flow
from deployments.services.service import free_port
from gpu_pools.worker.permitted import own_entrypoint
from tasks.base.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
YARD = Path(sys.executable).parent / "yard"
REPLACED = ("PREFECT_", "TRAINYARD_", "MLFLOW_TRACKING_URI", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")
FLOW = "lab.flows.digits"


@pytest.fixture
def environ(tmp_path):
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(REPLACED)},
        "TRAINYARD_HOME": str(tmp_path),
        "TRAINYARD_LOCK_DIR": str(tmp_path / "locks"),
        "TRAINYARD_DATABASE": "sqlite",
        "TRAINYARD_SIMULATE_GPUS": "1",
        "TRAINYARD_FLOWS": FLOW,
        "PYTHONPATH": str(EXAMPLES),
    }


@pytest.fixture
def lab(monkeypatch):
    """This process knows the example, too."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("TRAINYARD_FLOWS", FLOW)


def yard(environ, *words):
    done = subprocess.run([YARD, *words], env=environ, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(condition, limit_s=120):
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def cut_off_at(home, epoch):
    """Return whether a training has come that far."""
    (path,) = list(home.glob("runs/*/training/checkpoint.pt")) or [None]
    return path is not None and torch.load(path, weights_only=True)["epoch"] >= epoch


def check_result(home, n_epochs):
    """The weights are those of a training that was not cut off, and MLflow has every epoch once."""
    from lab.training import fit

    (path,) = home.glob("runs/*/training/checkpoint.pt")
    *_, (_, metrics, state) = fit(n_epochs, 64, 1e-3, 0, torch.device("cpu"), home / "none.pt")
    found = torch.load(path, weights_only=True)
    assert found["epoch"] == n_epochs
    assert all(torch.equal(found["model"][name], tensor) for name, tensor in state["model"].items())
    client = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["accuracy/test"] == metrics["accuracy/test"] > 0.85
    history = client.get_metric_history(run.info.run_id, "loss/train")
    assert sorted(row.step for row in history) == list(range(1, n_epochs + 1))


def test_every_piece_of_code_on_the_page_is_in_the_example():
    page = (ROOT / "docs" / "your-own-flow.md").read_text()
    code = "".join(path.read_text() for path in (EXAMPLES / "lab").glob("*.py"))
    pieces = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(pieces) == 6
    assert not [piece for piece in pieces if piece not in code]


def test_it_is_known_as_any_other_flow(lab):
    assert entrypoints()["digits"] == FLOW
    assert load_flow("digits").name == "digits"
    assert own_entrypoint(FLOW) == FLOW
    (deployment,) = more_deployments()
    assert deployment["entrypoint"] == FLOW
    assert deployment["work_pool"] == {"name": "gpu", "work_queue_name": "cuda.training"}
    assert deployment["description"].startswith("Train a small network on handwritten digits.")


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        ("nowhere.flows.digits", "found no module 'nowhere.flows', which TRAINYARD_FLOWS names"),
        ("lab.nowhere.digits", "found no module 'lab.nowhere', which TRAINYARD_FLOWS names"),
        ("lab.flows.train_digits", "found no flow called 'train_digits' in lab.flows"),
        ("lab.flows.missing", "found no flow called 'missing' in lab.flows"),
        (
            "lab.flows.digits,lab.training.digits",
            "found a second flow 'digits' in TRAINYARD_FLOWS: lab.t",
        ),
        ("lab.flows.splatting", "found a second flow 'splatting' in TRAINYARD_FLOWS"),
        ("digits", "found 'digits' in TRAINYARD_FLOWS, need MODULE.FUNCTION"),
    ],
)
def test_what_is_no_flow_is_refused_by_name(lab, monkeypatch, named, fault):
    monkeypatch.setenv("TRAINYARD_FLOWS", named)
    with pytest.raises(ConfigError, match=re.escape(fault)):
        more_deployments()


@pytest.mark.long
def test_one_that_is_killed_is_resumed_to_the_same_result(environ, lab, tmp_path):
    words = ["run", "digits", "--device", "cpu", "--set", "train.n_epochs=60"]
    with subprocess.Popen([YARD, *words], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_for(lambda: cut_off_at(tmp_path, 3))
        running.kill()
    assert not cut_off_at(tmp_path, 60)
    yard(environ, "resume")
    check_result(tmp_path, 60)


@pytest.mark.yard
def test_one_that_is_killed_in_its_queue_goes_on_by_itself(environ, lab, tmp_path):
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    yard(environ, "up", "--detach", *ports)
    try:
        order = ("train.n_epochs=600", "--device", "cuda:0", "--json")
        run = json.loads(yard(environ, "submit", "digits", *order))["id"]
        wait_for(lambda: cut_off_at(tmp_path, 3))
        os.kill(int((tmp_path / "runs" / run / "lock").read_text()), signal.SIGKILL)
        assert not cut_off_at(tmp_path, 600)
        shown = wait_for(
            lambda: (row := json.loads(yard(environ, "show", run, "--json")))["type"] == "COMPLETED" and row
        )
        assert (shown["device"], shown["attempts"]) == ("cuda:0", 2)
    finally:
        yard(environ, "down")
    check_result(tmp_path, 600)
