"""Each service behind the servers of Prefect and MLflow does its work once, on the versions that are installed."""

import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from deployments.stack.stack import free_port, prefect_service, running
from deployments.stack.undone import undone
from tests.deployments.conftest import server_environment
from tests.deployments.rest import rest
from tests.deployments.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

QUICK = {
    # The yard switches it off; a lab's server may have it on.
    "LATE_RUNS_ENABLED": "true",
    "LATE_RUNS_AFTER_SECONDS": "1",
    "CANCELLATION_CLEANUP_LOOP_SECONDS": "2",
    "CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "5",
    "FOREMAN_LOOP_SECONDS": "2",
    "DB_VACUUM_ENABLED": "events,flow_runs",
    "DB_VACUUM_LOOP_SECONDS": "5",
    "SCHEDULER_LOOP_SECONDS": "5",
}
FLOW = """
from prefect import flow, task

@task
def step():
    print("a step")

@flow(log_prints=True)
def recipe():
    step()

recipe()
"""
SOON_S = 120  # on a busy machine


@pytest.fixture(scope="module")
def api(server_home):
    """The address of a server as `yard up` starts it, with services that come round sooner."""
    with server_environment(server_home):
        service = prefect_service(free_port(), ui=True)
        # After the yard's own settings, which switch the late runs off.
        service.env.update({f"PREFECT_SERVER_SERVICES_{name}": value for name, value in QUICK.items()})
        with running(service):
            yield f"{service.url}/api"


@pytest.fixture
def call(api):
    with rest(api) as asked:
        yield asked


def flow(call):
    return call("POST", "/flows/", {"name": "f"})["id"]


def new_run(call, kind="PENDING", **body):
    state = {"type": kind, "name": kind.capitalize(), **body.pop("state", {})}
    return call("POST", "/flow_runs/", {"flow_id": flow(call), "state": state, **body})["id"]


def set_state(call, run, kind, **state):
    body = {"state": {"type": kind, "name": kind.capitalize(), **state}, "force": True}
    call("POST", f"/flow_runs/{run}/set_state", body)


def becomes(call, run, name):
    assert wait_for(lambda: call("GET", f"/flow_runs/{run}", None)["state"]["name"] == name, SOON_S), name


def runs_of(call, deployment):
    return call("POST", "/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})


def deployed(call, name, **body):
    return call("POST", "/deployments/", {"name": name, "flow_id": flow(call), **body})["id"]


def event(call, name, occurred=None):
    at = occurred or datetime.now(UTC)
    body = {"id": str(uuid4()), "occurred": at.isoformat(), "event": name}
    call("POST", "/events", [{**body, "resource": {"prefect.resource.id": "yard.test"}}])
    return {"filter": {"id": {"id": [body["id"]]}, "occurred": {"since": (at - timedelta(days=1)).isoformat()}}}


@pytest.mark.parametrize(
    "when", [{"cron": "* * * * *"}, {"interval": 60}, {"rrule": "DTSTART:20260101T000000Z\nRRULE:FREQ=HOURLY"}]
)
def test_schedules_make_runs(call, when):
    deployment = deployed(call, next(iter(when)), schedules=[{"schedule": when, "active": True}])
    assert wait_for(lambda: len(runs_of(call, deployment)) >= 3, SOON_S)
    call("DELETE", f"/deployments/{deployment}", None)


def test_a_run_that_does_not_start_becomes_late(call):
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    run = new_run(call, "SCHEDULED", state={"state_details": {"scheduled_time": past}})
    becomes(call, run, "Late")


def test_a_pause_that_is_over_fails_the_run(call):
    run = new_run(call)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    set_state(call, run, "PAUSED", state_details={"pause_timeout": past})
    becomes(call, run, "Failed")


def test_the_child_of_a_cancelled_run_is_cancelled(call):
    parent = new_run(call)
    task = {"flow_run_id": parent, "task_key": "t", "dynamic_key": "0", "name": "t"}
    child = new_run(call, parent_task_run_id=call("POST", "/task_runs/", task)["id"])
    set_state(call, parent, "CANCELLED")
    becomes(call, child, "Cancelled")


def test_a_cancelling_that_nobody_ends_is_ended(call):
    run = new_run(call)
    set_state(call, run, "RUNNING")
    set_state(call, run, "CANCELLING")
    becomes(call, run, "Cancelled")


def test_a_silent_worker_goes_offline(call):
    call("POST", "/work_pools/", {"name": "gpu", "type": "gpu-process"})
    call("POST", "/work_pools/gpu/workers/heartbeat", {"name": "one", "heartbeat_interval_seconds": 1})
    workers = "/work_pools/gpu/workers/filter"
    assert wait_for(lambda: [each["status"] for each in call("POST", workers, {})] == ["OFFLINE"], SOON_S)


@pytest.mark.parametrize(
    "trigger",
    [
        {"posture": "Reactive", "threshold": 1, "within": 0},
        {"posture": "Proactive", "threshold": 1, "within": 10, "after": []},
    ],
    ids=["an event that comes", "an event that does not come"],
)
def test_an_automation_acts(call, trigger):
    posture = trigger["posture"]
    deployment = deployed(call, f"acts-{posture}")
    name = f"yard.{posture}"
    body = {
        "name": posture,
        "trigger": {"type": "event", "match": {"prefect.resource.id": "yard.test"}, "expect": [name], **trigger},
        "actions": [{"type": "run-deployment", "source": "selected", "deployment_id": deployment, "parameters": {}}],
    }
    made = call("POST", "/automations/", body)["id"]

    def acted():
        if posture == "Reactive":
            event(call, name)  # a rule takes a moment until it is known
        return runs_of(call, deployment)

    assert wait_for(acted, SOON_S)
    call("PATCH", f"/automations/{made}", {"enabled": False})


def test_a_lease_that_ran_out_frees_its_slot(call):
    limit = call("POST", "/v2/concurrency_limits/", {"name": "slot", "limit": 1})["id"]
    body = {"names": ["slot"], "slots": 1, "lease_duration": 60}  # the shortest there is
    call("POST", "/v2/concurrency_limits/increment-with-lease", body)
    assert call("GET", f"/v2/concurrency_limits/{limit}", None)["active_slots"] == 1
    assert wait_for(lambda: call("GET", f"/v2/concurrency_limits/{limit}", None)["active_slots"] == 0, 60 + SOON_S)


def test_old_events_and_runs_are_removed(call, server_home):
    found = event(call, "yard.old", datetime.now(UTC) - timedelta(days=9))
    run = new_run(call)
    set_state(call, run, "COMPLETED")
    with sqlite3.connect(server_home / "prefect" / "prefect.db", timeout=60) as database:
        database.execute("UPDATE flow_run SET end_time = '2026-01-01 00:00:00.000000' WHERE id = ?", (run,))
    left = {"flow_runs": {"id": {"any_": [run]}}}
    assert wait_for(lambda: not call("POST", "/flow_runs/filter", left), SOON_S)
    assert wait_for(lambda: not call("POST", "/events/filter", found)["events"], SOON_S)


def test_what_a_run_says_is_kept(call, api):
    done = subprocess.run([sys.executable, "-c", FLOW], env={**os.environ, "PREFECT_API_URL": api}, check=False)
    assert done.returncode == 0
    (run,) = call("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["recipe"]}}})
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}

    def tasks():
        return [task["state"]["type"] for task in call("POST", "/task_runs/filter", of_run)]

    assert wait_for(lambda: tasks() == ["COMPLETED"], SOON_S)
    logs = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    assert wait_for(lambda: "a step" in {log["message"] for log in call("POST", "/logs/filter", logs)}, SOON_S)
    resource = {"resource": {"id": [f"prefect.flow-run.{run['id']}"]}}

    def events():
        return {each["event"] for each in call("POST", "/events/filter", {"filter": resource})["events"]}

    assert wait_for(lambda: {"prefect.flow-run.Running", "prefect.flow-run.Completed"} <= events(), SOON_S)


def test_after_all_of_it_nothing_is_left_undone(call, monkeypatch):
    monkeypatch.setattr("deployments.stack.undone.GRACE", timedelta(seconds=60))
    assert wait_for(lambda: undone(call, datetime.now(UTC)) == [], SOON_S), undone(call, datetime.now(UTC))


def test_mlflows_gc_removes_a_run_that_was_deleted(tmp_path, monkeypatch):
    from tasks.tracking.mlflow_api import client

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    store = client(uri)
    experiment = store.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    gone, kept = (store.create_run(experiment).info for _ in range(2))
    for run in (gone, kept):
        store.log_text(run.run_id, "weights", "model.txt")
        store.log_metric(run.run_id, "loss/val", 0.5)
    store.delete_run(gone.run_id)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT run_uuid FROM runs").fetchall() == [(kept.run_id,)]
        assert database.execute("SELECT DISTINCT run_uuid FROM metrics").fetchall() == [(kept.run_id,)]
    assert [path.parts[-3] for path in tmp_path.glob("artifacts/**/model.txt")] == [kept.run_id]
