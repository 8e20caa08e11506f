"""Hosts that share no disk: what one has made feeds another, and what a lost host began goes on elsewhere."""

import json
from pathlib import Path

import mlflow
import pytest

from deployments.services.service import free_port
from tasks.store.datasets import DataSets
from tasks.store.folder import SharedFolder
from tasks.store.objects import Objects
from tests.hosts.lab import Lab, lab
from tests.samples import SMALL_TRAINING, write_bands

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("lab"), free_port(), apart=True) as running:
        running.deploy_classification()
        yield running


@pytest.fixture(scope="module")
def data(made, tmp_path_factory) -> str:
    """Return the address of a data set that is on neither host."""
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "val", "test"):
        write_bands(folder / part)
    with Objects(made.mlflow) as objects:
        return DataSets(objects).put(folder, "bands", "anna").address


def host_of(made: Lab, run_id: str) -> str:
    """Return the host of a run's process."""
    (found,) = made.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    return str(found["infrastructure_pid"] or "").partition(":")[0]


def epochs(made: Lab, host: str, run_id: str) -> int:
    """Return how many epochs of a training are in its journal on a host."""
    journal = made.hosts[host].home / "runs" / run_id / "training" / "journal.jsonl"
    if not journal.is_file():
        return 0
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return sum("loss/train" in json.dumps(line) for line in lines)


def losses(made: Lab, run_name: str) -> tuple[str, list[int]]:
    """Return the status of an MLflow run, and the epochs for which it has a loss."""
    client = mlflow.MlflowClient(made.mlflow)
    experiment = client.get_experiment_by_name("classification")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run_name}'")
    rows = client.get_metric_history(tracked.info.run_id, "loss/train")
    return tracked.info.status, sorted(row.step for row in rows)


def training(name: str, device: str, n_epochs: int) -> dict[str, object]:
    return {
        "train": {**SMALL_TRAINING, "num_epochs": n_epochs, "batch_size": 4, "device": device},
        "track": {"run_name": name},
    }


def test_a_preparation_on_one_host_feeds_a_training_on_another(made, data):
    made.kill(made.workers["boxb"])
    run = made.submit("classification", "cpu.pipeline", {"data": data, **training("fed", "boxb/cuda", 2)})
    prepared = made.hosts["boxa"].home / "runs" / run / "split" / "made_with.json"
    made.until(prepared.is_file, 240, "boxa has prepared the data")
    assert host_of(made, run) == "boxa"
    made.start_host("boxb")
    made.until(made.is_(run, "COMPLETED"), 300, "the pipeline is done")
    stages = made.post("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
    trained = next(stage for stage in stages if "train" in stage["parameters"])
    assert trained["parameters"]["dataset"].startswith("home:/runs/")
    assert (made.hosts["boxb"].home / "runs" / run / "training" / "finished.json").is_file()
    # The pipeline's host has all results.
    assert (made.hosts["boxa"].home / "runs" / run / "training" / "finished.json").is_file()
    assert losses(made, "fed") == ("FINISHED", [1, 2])


def test_the_training_of_a_host_that_dies_goes_on_elsewhere_from_its_last_checkpoint(made, data):
    run = made.submit("train_classifier", "cuda.training", {"dataset": data, **training("moves", "cuda", 400)})
    made.until(lambda: host_of(made, run), 120, "it has a process")
    first = host_of(made, run)
    (other,) = {"boxa", "boxb"} - {first}
    sent = f"runs/{run}"
    with Objects(made.mlflow) as objects:
        made.until(lambda: any(run in name for name in objects.sizes(sent)), 120, "it is known to others")
        made.until(lambda: epochs(made, first, run) >= 3, 120, "epochs are over")
        made.until(lambda: _has_checkpoint(objects, sent), 120, "a checkpoint is sent")
    made.kill(made.workers[first])
    made.until(lambda: host_of(made, run) == other, 300, "the other host goes on")
    log = made.hosts[other].home / "runs" / run / "training" / "run.log"
    made.until(lambda: log.is_file() and "goes on" in log.read_text(), 120, "from the checkpoint")
    made.start_host(first)
    made.until(made.is_(run, "COMPLETED"), 400, "it is done")
    assert host_of(made, run) == other
    assert losses(made, "moves") == ("FINISHED", list(range(1, 401)))


def test_a_host_that_was_cut_off_for_long_gives_its_run_up(made, data):
    run = made.submit("train_classifier", "cuda.training", {"dataset": data, **training("twice", "cuda", 2000)})
    made.until(lambda: host_of(made, run), 120, "it has a process")
    first = host_of(made, run)
    (other,) = {"boxa", "boxb"} - {first}
    with Objects(made.mlflow) as objects:
        made.until(lambda: _has_checkpoint(objects, f"runs/{run}"), 120, "a checkpoint is sent")
    made.hosts[first].plug(cable=False)
    made.until(lambda: host_of(made, run) == other, 300, "the other host goes on")
    made.hosts[first].plug(cable=True)
    ledger = made.hosts[first].home / "worker" / first / f"{run}.json"
    made.until(lambda: not ledger.is_file(), 120, "the host that was cut off gives it up")
    assert "taken over by another host" in (made.home / f"worker-{first}.log").read_text()
    assert host_of(made, run) == other
    made.until(made.is_(run, "RUNNING"), 60, "it runs there")
    _, before = losses(made, "twice")
    made.until(lambda: max(losses(made, "twice")[1], default=0) > max(before, default=0) + 20, 120, "its epochs arrive")
    _, steps = losses(made, "twice")
    assert steps == list(range(1, len(steps) + 1))  # none twice, though both hosts have trained the same
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 60, "it is cancelled")


def _has_checkpoint(objects: Objects, folder: str) -> bool:
    found = SharedFolder(Path("/nowhere"), folder, objects).known()
    return any(path.endswith("checkpoint.pt") for path in found)
