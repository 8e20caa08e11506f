"""A pipeline in a real yard whose MLflow is away at its end, or whose stage is out of time or cancelled: all go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from deployments.services.programs import mlflow_service
from deployments.services.service import Service, free_port, running
from tests.chaos.test_pipeline import pictures
from tests.chaos.yard import Yard, yard
from tests.samples import SMALL_TRAINING

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

YARD = Path(sys.executable).parent / "yard"
LIMIT_S = 90
EPOCHS = 400  # of 20 to 200 ms: the first seconds of a training are not its last, however fast the machine
__all__ = ["pictures"]  # a fixture


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Callable[[], Any]:
    """Return a function that runs an MLflow server for a block, each time on the same port and store."""
    folder = tmp_path_factory.mktemp("tracking")
    port = free_port()

    @contextmanager
    def up() -> Iterator[Service]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRAINYARD_HOME", str(folder))
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            with running(mlflow_service(port)) as service:
                yield service

    up.url = f"http://127.0.0.1:{port}"
    return up


@pytest.fixture(scope="module")
def made(tmp_path_factory, tracking):
    home = tmp_path_factory.mktemp("yard")
    with yard(home, free_port(), MLFLOW_TRACKING_URI=tracking.url, TRAINYARD_DATABASE="sqlite") as running_yard:
        running_yard.deploy_classification()
        yield running_yard


def start(made: Yard, pictures: Path, name: str, epochs: int, **variables: str) -> str:
    """Submit a pipeline of a training of so many epochs; return its id."""
    parameters = {
        "data": str(pictures),
        "split": {"train_ratio": 0.5, "val_ratio": 0.25},
        "augment": {"enabled": False},
        "train": {**SMALL_TRAINING, "device": "cuda", "checkpoint_every_s": 0.5, "num_epochs": epochs},
        "track": {"experiment": name, "run_name": name},
    }
    return made.submit("classification", "cpu.pipeline", parameters, owner="anna@boxa", **variables)


def call(made: Yard, *words: str, well: bool = True) -> str:
    """Return what a command of anna's says; not `well`: it may find faults."""
    env = {**made.env, "TRAINYARD_OWNER": "anna@boxa", "COLUMNS": "200"}
    done = subprocess.run([YARD, *words], env=env, capture_output=True, text=True, check=False, cwd=made.home)
    assert done.returncode == 0 or not well, done.stdout + done.stderr
    return done.stdout


def stages(made: Yard, run: str) -> dict[str, dict[str, Any]]:
    """Return the stages of a pipeline, by the queue that they came from."""
    body = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
    return {found["work_queue_name"]: found for found in made.post("/flow_runs/filter", body)}


def training_of(made: Yard, run: str) -> dict[str, Any]:
    """Return the training of a pipeline once it runs and has saved its state."""
    checkpoint = made.home / "runs" / run / "training" / "checkpoint.pt"
    made.until(checkpoint.is_file, 400, "the training has a checkpoint")
    return stages(made, run)["cuda.training"]


def steps_of(url: str, name: str) -> tuple[str, list[int]]:
    """Return the status of the one run of an experiment in MLflow, and the epochs that it has, in their order."""
    client = mlflow.MlflowClient(url)
    (found,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return found.info.status, [row.step for row in client.get_metric_history(found.info.run_id, "loss/train")]


def test_what_mlflow_missed_at_the_end_is_sent_and_the_model_registered_by_the_worker(made, pictures, tracking):
    with tracking():
        run = start(made, pictures, "away", epochs=40)
        training_of(made, run)
    made.until(made.is_(run, "COMPLETED", "FAILED", "CRASHED"), 400, "the pipeline ends")
    assert made.state(run)["type"] == "COMPLETED", made.tails()
    assert {stage["state"]["type"] for stage in stages(made, run).values()} == {"COMPLETED"}
    (summary,) = made.post("/artifacts/filter", {"artifacts": {"key": {"any_": ["summary"]}}})
    assert "Not registered yet" in summary["data"]
    assert json.loads(call(made, "status", "--json", well=False))["unsent_runs"] == 1
    with tracking():
        client = mlflow.MlflowClient(tracking.url)

        def registered() -> Any:
            return client.search_model_versions("name = 'away'")

        made.until(registered, 300, "the model is registered")
        made.until(lambda: not (made.home / "runs" / run / "postponed.json").exists(), 60, "nothing is postponed")
        (version,) = registered()
        assert client.get_model_version_by_alias("away", "champion").version == version.version
        made.until(lambda: steps_of(tracking.url, "away")[0] == "FINISHED", 60, "MLflow knows the end")
        assert steps_of(tracking.url, "away")[1] == list(range(1, 41))
        later = [r for r in made.post("/flow_runs/filter", {}) if r["work_queue_name"] == "cpu.inference"]
        assert len(later) == 2  # the stage, and what the worker has started
        made.until(lambda: all(made.state(r["id"])["type"] == "COMPLETED" for r in later), 60, "the report has ended")
        assert {r["job_variables"]["owner"] for r in later} == {"anna@boxa"}
        assert json.loads(call(made, "status", "--json", well=False))["unsent_runs"] == 0


def out_of_time(made: Yard, run: str) -> str:
    """Let the training of a pipeline reach its limit, however fast this machine is; return its id."""
    training = training_of(made, run)
    pid = int(training["infrastructure_pid"].rpartition(":")[2])
    entry = json.loads((made.home / "worker" / "one" / f"{training['id']}.json").read_text())
    os.kill(pid, signal.SIGSTOP)
    time.sleep(max(0.0, entry["began"] + LIMIT_S + 1 - time.time()))
    os.kill(pid, signal.SIGCONT)
    made.until(made.is_(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED"), 60, "the pipeline has ended")
    return str(training["id"])


def test_a_pipeline_whose_training_was_out_of_time_goes_on_and_does_nothing_twice(made, pictures, tracking):
    with tracking():
        run = start(made, pictures, "late", epochs=EPOCHS, time_limit=f"{LIMIT_S}s")
        training = out_of_time(made, run)
        assert made.state(training)["name"] == "TimedOut"
        assert made.state(run)["name"] == "TimedOut"
        assert "train_classifier (late) is TimedOut: stopped after 1 min" in made.state(run)["message"]
        assert "waits in its queue again, with 2h" in call(made, "resume", "late", "--time-limit", "2h")
        made.until(made.is_(run, "COMPLETED"), 400, "the pipeline ends well")
        counts = {queue: stage["run_count"] for queue, stage in stages(made, run).items()}
        assert counts == {"cpu.preparation": 1, "cuda.training": 2, "cpu.inference": 1}
        assert stages(made, run)["cuda.training"]["job_variables"]["time_limit"] == "2h"
        assert steps_of(tracking.url, "late") == ("FINISHED", list(range(1, EPOCHS + 1)))


def test_the_stage_alone_goes_on_and_later_its_pipeline_with_what_follows(made, pictures, tracking):
    with tracking():
        run = start(made, pictures, "apart", epochs=EPOCHS, time_limit=f"{LIMIT_S}s")
        training = out_of_time(made, run)
        said = call(made, "resume", "apart/train_classifier", "--time-limit", "2h")
        assert f"`yard resume {run}` does what follows" in said
        made.until(made.is_(training, "COMPLETED"), 400, "the training ends well")
        assert made.state(run)["name"] == "TimedOut"
        assert set(stages(made, run)) == {"cpu.preparation", "cuda.training"}
        call(made, "resume", run, "--time-limit", "2h")
        made.until(made.is_(run, "COMPLETED"), 400, "the pipeline ends well")
        counts = {queue: stage["run_count"] for queue, stage in stages(made, run).items()}
        assert counts == {"cpu.preparation": 1, "cuda.training": 2, "cpu.inference": 1}
        assert steps_of(tracking.url, "apart") == ("FINISHED", list(range(1, EPOCHS + 1)))


def test_a_pipeline_whose_training_is_cancelled_is_cancelled_and_can_go_on(made, pictures, tracking):
    with tracking():
        run = start(made, pictures, "undone", epochs=EPOCHS)
        training = training_of(made, run)["id"]
        call(made, "cancel", "undone/train_classifier")
        made.until(made.is_(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED"), 120, "the pipeline has ended")
        assert (made.state(training)["type"], made.state(run)["type"]) == ("CANCELLED", "CANCELLED")
        assert "train_classifier (undone) is Cancelled" in made.state(run)["message"]
        assert set(stages(made, run)) == {"cpu.preparation", "cuda.training"}
        call(made, "resume", "undone")
        made.until(made.is_(run, "COMPLETED"), 400, "the pipeline ends well")
        assert steps_of(tracking.url, "undone") == ("FINISHED", list(range(1, EPOCHS + 1)))
