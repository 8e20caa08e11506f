"""The classification pipeline in a real yard: its parts in their queues, killed, cancelled and gone on with."""

import json
import os
import signal
import time
from datetime import datetime
from typing import Any

import mlflow
import pytest

from deployments.services.service import free_port
from tests.chaos.yard import Yard, yard
from tests.samples import SMALL_TRAINING, write_bands

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

TRAIN = SMALL_TRAINING | {"device": "cuda", "checkpoint_every_s": 0.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        running.deploy_classification()
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_bands(tmp_path_factory.mktemp("data") / "bands")


def start(made: Yard, pictures, name: str, epochs: int, **train: Any) -> str:
    parameters = {
        "data": str(pictures),
        "split": {"train_ratio": 0.5, "val_ratio": 0.25},
        "augment": {"methods": ["Sharpen"], "n_workers": 1},
        "train": {**TRAIN, "num_epochs": epochs, **train},
        "track": {"experiment": "bands", "run_name": name},
    }
    return made.submit("classification", "cpu.pipeline", parameters, owner="anna@boxa", priority=2)


def stages(made: Yard, run: str) -> list[dict[str, Any]]:
    """Return the runs that a pipeline has started, in their order."""
    body = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(made.post("/flow_runs/filter", body))


def stage(made: Yard, run: str, queue: str, seconds: float = 400) -> dict[str, Any]:
    """Return the stage of a pipeline in a queue, once it runs."""

    def running() -> list[dict[str, Any]]:
        mine = [h for h in stages(made, run) if h["work_queue_name"] == queue and h["state"]["type"] == "RUNNING"]
        return [h for h in mine if h["infrastructure_pid"]]  # the worker says so a moment later

    made.until(running, seconds, f"the stage in {queue} runs")
    return running()[0]


def pid_of(found: dict[str, Any]) -> int:
    return int(found["infrastructure_pid"].rpartition(":")[2])


def statuses(made: Yard) -> dict[str, str]:
    """Return name -> status of the runs in MLflow."""
    client = mlflow.MlflowClient(made.env["MLFLOW_TRACKING_URI"])
    (experiment,) = client.search_experiments(filter_string="name = 'bands'")
    return {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}


def figures_of(made: Yard, name: str) -> dict[str, float]:
    """Return the metrics of a run in MLflow as they were logged last."""
    client = mlflow.MlflowClient(made.env["MLFLOW_TRACKING_URI"])
    (experiment,) = client.search_experiments(filter_string="name = 'bands'")
    (run,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == name]
    return dict(run.data.metrics)


def history(made: Yard, name: str) -> list[int]:
    client = mlflow.MlflowClient(made.env["MLFLOW_TRACKING_URI"])
    (experiment,) = client.search_experiments(filter_string="name = 'bands'")
    (run,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == name]
    return [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/train")]


def test_a_killed_stage_and_a_killed_parent_go_on_and_end_in_one_mlflow_run(made, pictures):
    run = start(made, pictures, "killed", epochs=40)
    training = stage(made, run, "cuda.training")
    assert training["job_variables"]["owner"] == "anna@boxa"
    made.until(lambda: (made.home / "runs" / run / "training" / "checkpoint.pt").is_file(), 90, "a checkpoint")
    os.kill(pid_of(training), signal.SIGKILL)
    time.sleep(1)
    (parent,) = made.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    os.kill(pid_of(parent), signal.SIGKILL)
    made.until(made.is_(run, "COMPLETED"), 300, "the pipeline ends well")
    assert [h["state"]["type"] for h in stages(made, run)] == ["COMPLETED"] * 3  # the same ones, found again
    assert statuses(made)["killed"] == "FINISHED"
    assert history(made, "killed") == list(range(1, 41))


def ended(made: Yard, run: str, queue: str, state: str, seconds: float = 400) -> dict[str, Any]:
    """Return the part of a pipeline in a queue, once it has come to an end."""

    def found() -> list[dict[str, Any]]:
        return [h for h in stages(made, run) if h["work_queue_name"] == queue and h["state"]["type"] == state]

    made.until(found, seconds, f"the part in {queue} is {state}")
    return found()[0]


def test_the_device_is_free_for_the_next_run_before_the_report_is_there(made, pictures):
    made.set_queue("cpu.inference", is_paused=True)
    (made.home / "gpus.json").write_text('{"cuda:0": {"utilisation_percent": 40}}')
    run = start(made, pictures, "free", epochs=20, device="cuda:0")
    begun = stage(made, run, "cuda:0.training")
    began = json.loads((made.home / "worker" / "one" / f"{begun['id']}.json").read_text())["began"]
    following = made.hold("cuda:0.training", 0.5)
    made.until(made.is_(following, "COMPLETED"), 400, "the next run has had the device")
    training = ended(made, run, "cuda:0.training", "COMPLETED")
    assert made.state(run)["type"] == "RUNNING"
    assert statuses(made)["free"] == "RUNNING"
    finished = (made.home / "runs" / run / "training" / "finished.json").stat().st_mtime
    made.set_queue("cpu.inference", is_paused=False)
    os.kill(pid_of(stage(made, run, "cpu.inference")), signal.SIGKILL)
    made.until(made.is_(run, "COMPLETED"), 400, "the pipeline ends well")
    assert ended(made, run, "cpu.inference", "COMPLETED")["run_count"] == 2
    assert ended(made, run, "cuda:0.training", "COMPLETED")["run_count"] == training["run_count"] == 1
    assert (made.home / "runs" / run / "training" / "finished.json").stat().st_mtime == finished
    assert statuses(made)["free"] == "FINISHED"
    assert history(made, "free") == list(range(1, 21))
    used = {name.removeprefix("trainyard."): value for name, value in training["labels"].items()}
    until_end = datetime.fromisoformat(training["end_time"]).timestamp() - began  # by the worker's ledger
    assert until_end - 3 < used["held_s"] < until_end + 0.5  # on a busy machine the server hears of the end later
    assert 0 < used["first_batch_s"] < used["held_s"]
    assert used["gpu_busy_share"] == 0.4
    figures = figures_of(made, "free")
    assert used["first_batch_s"] < figures["slot/held_s"] <= used["held_s"]
    assert figures["slot/gpu_busy_share"] == pytest.approx(0.4)


def test_a_report_that_failed_is_done_again_without_the_training(made, pictures, tmp_path):
    made.set_queue("cpu.inference", is_paused=True)
    run = start(made, pictures, "retried", epochs=3, save_path=str(tmp_path / "copies"))
    ended(made, run, "cuda.training", "COMPLETED")
    (tmp_path / "copies").rmdir()
    (tmp_path / "copies").write_text("in the way")
    made.set_queue("cpu.inference", is_paused=False)
    made.until(made.is_(run, "FAILED"), 400, "the pipeline fails")
    assert made.state(run)["message"].count("report_classifier (retried) is Failed") == 1
    assert statuses(made)["retried"] == "FAILED"
    (tmp_path / "copies").unlink()
    made.post(f"/flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}})
    made.until(made.is_(run, "COMPLETED"), 400, "the pipeline ends well")
    assert [h["run_count"] for h in stages(made, run)] == [1, 1, 2]
    assert statuses(made)["retried"] == "FINISHED"
    assert (tmp_path / "copies" / "report" / "metrics.json").is_file()


def test_cancel_of_the_parent_ends_its_stages_and_the_mlflow_run(made, pictures):
    run = start(made, pictures, "cancelled", epochs=2000)
    training = stage(made, run, "cuda.training")
    made.until(lambda: (made.home / "runs" / run / "training" / "checkpoint.pt").is_file(), 90, "a checkpoint")
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 60, "the pipeline is cancelled")
    made.until(made.is_(training["id"], "CANCELLED"), 60, "its stage is cancelled")
    made.until(lambda: statuses(made)["cancelled"] == "KILLED", 90, "MLflow knows")
    assert (made.home / "runs" / run / "training" / "checkpoint.pt").is_file()
    assert not os.path.exists(f"/proc/{pid_of(training)}")


def test_a_stopped_worker_saves_trainings_and_the_next_one_goes_on(made, pictures):
    run = start(made, pictures, "stopped", epochs=60)
    training = stage(made, run, "cuda.training")
    made.until(lambda: (made.home / "runs" / run / "training" / "checkpoint.pt").is_file(), 90, "a checkpoint")
    worker = made.workers["one"]
    worker.send_signal(signal.SIGUSR1)
    assert worker.wait(120) == 0
    assert made.state(training["id"])["type"] == "SCHEDULED"
    assert made.state(run)["type"] == "SCHEDULED"
    made.start_worker("one")
    made.until(made.is_(run, "COMPLETED"), 300, "the pipeline ends well")
    assert history(made, "stopped") == list(range(1, 61))
    assert statuses(made)["stopped"] == "FINISHED"
