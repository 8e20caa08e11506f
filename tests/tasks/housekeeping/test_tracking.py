"""MLflow runs of the dead end, and what was deleted goes for good, but not what a model or a pinned run needs."""

import json
import os
import subprocess
import sys
import time

import pytest
from mlflow.exceptions import MlflowException

from gpu_pools.process import run_setup
from tasks.base.workspace import run_dir
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round
from tasks.housekeeping.tracking import own_store
from tasks.tracking.mlflow_api import client

HOUR = 3600.0
TRACKED = """
import os, sys
from pathlib import Path
from tasks.tracking.tracker import Tracker
run = sys.argv[1]
folder = Path(os.environ["TRAINYARD_HOME"], "runs", run, "training")
with Tracker.open(folder, "lab", "one", {}, {"prefect.flow_run_id": run}) as t:
    t.metrics({"loss/train": 0.5}, 1)
    t.flush()
    t.metrics({"loss/train": 0.25}, 2)
    os._exit(9)
"""


def clean(hours=0.0, *, dry_run=False, **keep):
    return go_round(KeepParams(records=None, checkpoints=None, **keep), time.time() + hours * HOUR, dry_run=dry_run)


@pytest.fixture
def store(yard):
    return client()


def tracked_run(yard, state):
    """Return a Prefect run and its MLflow run, whose process died."""
    run_id = yard.run(state)
    environ = {**os.environ, "TRAINYARD_HOME": str(yard.home)}
    done = subprocess.run([sys.executable, "-c", TRACKED, run_id], env=environ, check=False, capture_output=True)
    assert done.returncode == 9, done.stderr
    return run_id, json.loads((run_dir(run_id) / "training" / "run.json").read_text())["run_id"]


@pytest.mark.parametrize(("state", "status"), [("FAILED", "FAILED"), ("CANCELLED", "KILLED"), ("CRASHED", "FAILED")])
def test_a_run_left_running_ends_as_its_prefect_run_did_with_all_its_rows(yard, store, state, status):
    _, tracked = tracked_run(yard, state)
    clean(0.9)
    assert store.get_run(tracked).info.status == "RUNNING"
    clean(1.1)
    assert store.get_run(tracked).info.status == status
    assert [(row.step, row.value) for row in store.get_metric_history(tracked, "loss/train")] == [(1, 0.5), (2, 0.25)]
    assert clean(1.1).entries == []


def test_a_run_that_lives_and_one_of_nobody_stay_as_they_are(yard, store):
    run_id, tracked = tracked_run(yard, "RUNNING")
    by_hand = store.create_run(store.create_experiment("mine")).info.run_id
    lock = run_setup.lock_run(run_id)
    clean(1000)
    os.close(lock)
    assert [store.get_run(run).info.status for run in (tracked, by_hand)] == ["RUNNING", "RUNNING"]


def test_a_run_of_a_terminal_that_was_killed_ends_once_nothing_holds_it(yard, store):
    run_id, tracked = tracked_run(yard, "RUNNING")  # as its process left it: Prefect was told nothing
    lock = run_setup.lock_run(run_id)
    clean(1.1)
    assert store.get_run(tracked).info.status == "RUNNING"
    os.close(lock)
    clean(0.9)
    assert store.get_run(tracked).info.status == "RUNNING"
    assert "has no process" in clean(1.1).entries[0].why
    assert store.get_run(tracked).info.status == "FAILED"


def test_a_run_without_a_folder_gets_its_status(yard, store):
    run_id = yard.run("FAILED", folder=False)
    experiment = store.create_experiment("lab")
    tracked = store.create_run(experiment, tags={"prefect.flow_run_id": run_id}).info.run_id
    clean(2, dry_run=True)
    assert store.get_run(tracked).info.status == "RUNNING"
    clean(2)
    assert store.get_run(tracked).info.status == "FAILED"


def with_files(store, experiment, **tags):
    run = store.create_run(experiment, tags=tags)
    store.log_text(run.info.run_id, "x" * 20_000, "weights/best.pt")
    store.log_metric(run.info.run_id, "loss", 1.0)
    return run.info.run_id


def gone(store, run):
    try:
        return store.get_run(run) is None
    except MlflowException:
        return True


def test_what_was_deleted_goes_with_its_files_and_counts(yard, store):
    experiment = store.create_experiment("lab")
    kept, deleted = with_files(store, experiment), with_files(store, experiment)
    store.delete_run(deleted)
    folder = yard.home / "mlflow" / "artifacts"
    clean(deleted_runs="1h")
    assert not gone(store, deleted)
    time.sleep(1.1)
    planned, done = clean(deleted_runs="1s", dry_run=True), clean(deleted_runs="1s")
    assert gone(store, deleted)
    assert not gone(store, kept)
    assert planned.bytes == done.bytes >= 20_000
    assert [entry.what for entry in done.entries] == [deleted]
    assert not list(folder.rglob(f"{deleted}/**/best.pt"))


@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_what_a_model_or_a_pinned_run_needs_stays(yard, store, deleted):
    experiment = store.create_experiment("lab")
    served, other = with_files(store, experiment), with_files(store, experiment)
    store.create_registered_model("drones")
    store.create_model_version("drones", f"runs:/{served}/weights", served)
    pinned_run, pinned = tracked_run(yard, "FAILED")
    yard.client.update_flow_run(pinned_run, tags=["pinned"])
    store.delete_run(pinned)
    if deleted == "run":
        store.delete_run(served)
        store.delete_run(other)
    else:
        store.delete_experiment(experiment)
    time.sleep(1.1)
    receipt = clean(deleted_runs="1s")
    assert [gone(store, run) for run in (served, pinned, other)] == [False, False, True]
    assert {entry.what: entry.why for entry in receipt.kept}[served] == "version 1 of model 'drones' needs it"
    assert (yard.home / "mlflow" / "artifacts").rglob(f"{served}/artifacts/weights/best.pt")


def test_an_experiment_that_was_deleted_goes_once_it_is_empty(yard, store):
    experiment = store.create_experiment("lab")
    with_files(store, experiment)
    store.delete_experiment(experiment)
    time.sleep(1.1)
    clean(deleted_runs="1s")
    with pytest.raises(MlflowException, match=experiment):
        store.get_experiment(experiment)


def test_a_store_of_another_home_is_left_alone_and_said(yard, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (first, second) = clean().notes
    assert first.startswith("dead_runs: not all was done")
    assert second == "deleted_runs: MLflow at http://127.0.0.1:9 is no store of this home: `mlflow gc` where it is"


def test_a_lab_s_database_is_not_that_of_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://yard.lab:5443")
    record = {"mlflow": "https://yard.lab:5443"}
    (tmp_path / "services.json").write_text(json.dumps(record | {"lab": "/etc/trainyard/lab.yaml"}))
    assert own_store() is None
    (tmp_path / "services.json").write_text(json.dumps(record))
    assert own_store() == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
