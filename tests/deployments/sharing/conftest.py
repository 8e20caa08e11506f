"""Runs with a past, on the server of the tests of commands."""

import os
import time

import pytest

from tasks.tracking import mlflow_api


def ran(yard, flow, *, end="COMPLETED", labels=None, **body):
    """Make a run that waited for a second and ran for two."""
    run = yard.create(flow, state={"type": "SCHEDULED"}, **body)
    time.sleep(1)
    yard.state(run["id"], "RUNNING")
    time.sleep(2)
    yard.state(run["id"], end)
    yard.api.call("PATCH", f"/flow_runs/{run['id']}/labels", {"trainyard.device": "cuda:0", **(labels or {})})
    return run["id"]


@pytest.fixture(scope="session")
def runs():
    """Ids of the runs that the tests of this folder have made, once."""
    return []


@pytest.fixture
def history(yard, tracking, runs):
    """A server with a run of hist@boxa and a failed one of another host, and what MLflow has of the first."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    for row in yard.api.pages("/flow_runs/filter", {}):  # what other files of tests have left on this server
        if row["id"] not in runs:
            yard.api.call("DELETE", f"/flow_runs/{row['id']}")
    if runs:
        return
    told = {"trainyard.energy_wh": 500.0, "trainyard.peak_memory_mib": 9000.0, "trainyard.gpu_busy_share": 0.8}
    mine = {"job_variables": {"owner": "hist@boxa"}, "parameters": {"dataset": "/d"}, "name": "=1+1"}
    runs.append(ran(yard, "train_classifier", labels=told, **mine))
    other = {"trainyard.device": "cuda:1", "trainyard.host": "boxb"}
    theirs = {"job_variables": {"owner": "hister@boxb"}, "parameters": {"scene": "/s"}}
    runs.append(ran(yard, "train_splat", end="FAILED", labels=other, **theirs))
    runs.append(ran(yard, "housekeeping"))
    store = mlflow_api.client(tracking)
    run = store.create_run("0", tags={"prefect.flow_run_id": runs[0]})
    store.log_metric(run.info.run_id, "accuracy/test", 0.9375)
