"""A server that answers while a service behind it does not work is not well: each such service, on a real server."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from deployments.runs.prefect_http import online_workers
from deployments.stack.stack import free_port, prefect_service, running
from deployments.stack.undone import undone
from tests.deployments.conftest import server_environment
from tests.deployments.rest import rest
from tests.deployments.waiting import wait_for

YARD = Path(sys.executable).parent / "yard"
OFF = (
    "SCHEDULER",
    "FOREMAN",
    "PAUSE_EXPIRATIONS",
    "CANCELLATION_CLEANUP",
    "TASK_RUN_RECORDER",
    "LATE_RUNS",
    "TRIGGERS",
)
LATER = timedelta(minutes=10)  # when undone work is looked for


@pytest.fixture(scope="module")
def call(server_home):
    """How to ask a server whose services do not come round, as if they had died or hung."""
    with server_environment(server_home) as patch:
        for name in OFF:
            patch.setenv(f"PREFECT_SERVER_SERVICES_{name}_ENABLED", "false")
        service = prefect_service(free_port(), ui=False)
        with running(service), rest(f"{service.url}/api") as call:
            patch.setenv("PREFECT_API_URL", f"{service.url}/api")
            call("POST", "/work_pools/", {"name": "gpu", "type": "gpu-process"})
            yield call


def faults(call, word):
    """Return what is said about one service, now and later."""
    now = datetime.now(UTC)
    return [[fault for fault in undone(call, at) if word in fault] for at in (now, now + LATER)]


def flow(call):
    return call("POST", "/flows/", {"name": "f"})["id"]


def new_run(call, **body):
    return call("POST", "/flow_runs/", {"flow_id": flow(call), "state": {"type": "PENDING", "name": "Pending"}, **body})


def set_state(call, run, kind, **body):
    state = {"type": kind, "name": kind.capitalize(), **body}
    call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})


def event(call, name, resource, occurred, *related):
    body = {
        "id": str(uuid4()),
        "occurred": occurred.isoformat(),
        "event": name,
        "resource": {"prefect.resource.id": resource},
        "related": list(related),
    }
    call("POST", "/events", [body])
    around = {"since": (occurred - LATER).isoformat(), "until": (occurred + LATER).isoformat()}
    found = {"filter": {"id": {"id": [body["id"]]}, "occurred": around}}
    assert wait_for(lambda: call("POST", "/events/filter", found)["events"], 30)


def yard(*words):
    return subprocess.run([str(YARD), *words], capture_output=True, text=True, check=False, timeout=200)


def test_a_server_with_nothing_to_do_is_well(call):
    assert undone(call, datetime.now(UTC)) == []
    status = yard("status")
    assert (status.returncode, status.stdout.splitlines()[-1]) == (0, "all is well"), status.stdout
    shown = json.loads(yard("status", "--json").stdout)
    assert shown["services"]["prefect"]["version"].startswith("3.")
    assert shown["database"] == {}


def test_a_schedule_without_runs_is_said_to_whoever_asks(call, server_home):
    minutely = {"slug": "minutely", "schedule": {"cron": "* * * * *"}, "active": True}
    off = {"slug": "off", "schedule": {"cron": "* * * * *"}, "active": False}
    body = {"name": "d", "flow_id": flow(call), "schedules": [minutely, off]}
    made = call("POST", "/deployments/", body)["id"]
    now, (later, *more) = faults(call, "scheduler")
    assert now == []  # it was made a moment ago
    assert more == []
    assert later.startswith("Prefect's scheduler makes no runs, it is switched off (PREFECT_SERVER_SERVICES_SCHEDULER")
    assert "found none for the active schedule 'minutely' of d (next at " in later
    with sqlite3.connect(server_home / "prefect" / "prefect.db") as database:
        database.execute("UPDATE deployment SET updated = '2026-01-01 00:00:00.000000'")
        database.execute("UPDATE deployment_schedule SET updated = '2026-01-01 00:00:00.000000'")
    status = yard("status")
    assert status.returncode == 1
    assert "fault: Prefect's scheduler makes no runs" in status.stdout
    assert "all is well" not in status.stdout
    doctor = json.loads(yard("doctor", "--json").stdout)
    (said,) = [check for check in doctor if check["name"] == "background"]
    assert (said["state"], "scheduler makes no runs" in said["found"]) == ("missing", True)
    call("DELETE", f"/deployments/{made}", None)


def test_a_silent_worker_that_counts_as_online_is_seen(call):
    beat = {"name": "one", "heartbeat_interval_seconds": 2}
    call("POST", "/work_pools/gpu/workers/heartbeat", beat)
    assert online_workers(call) == ["one"]
    now, (later,) = faults(call, "foreman")
    assert now == []
    assert "worker one counts as online, and was last heard of 10 min ago" in later
    assert wait_for(lambda: online_workers(call) == [], 60)


def test_a_pause_that_is_over_and_goes_on_is_seen(call):
    run = new_run(call, name="pausing")
    set_state(call, run, "RUNNING")
    over = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    set_state(call, run, "PAUSED", state_details={"pause_timeout": over})
    now, (later,) = faults(call, "pauses")
    assert now == []
    assert later.startswith("Prefect does not end pauses that are over: pausing (until ")
    set_state(call, run, "COMPLETED")


def test_a_child_that_outlives_its_cancelled_parent_is_seen(call):
    parent = new_run(call, name="parent")
    set_state(call, parent, "RUNNING")
    task = {"flow_run_id": parent["id"], "task_key": "t", "dynamic_key": "0", "name": "t"}
    new_run(call, name="child", parent_task_run_id=call("POST", "/task_runs/", task)["id"])
    set_state(call, parent, "CANCELLED")
    now, (later,) = faults(call, "children")
    assert now == []
    assert later == "Prefect does not cancel the children of runs that were cancelled: child"


def test_a_task_run_that_is_not_recorded_is_seen(call):
    run = new_run(call, name="with-tasks")
    related = {"prefect.resource.id": f"prefect.flow-run.{run['id']}", "prefect.resource.role": "flow-run"}
    task = str(uuid4())
    event(call, "prefect.task-run.Completed", f"prefect.task-run.{task}", datetime.now(UTC), related)
    now, (later,) = faults(call, "recorder")
    assert now == []
    assert task in later


def test_events_that_are_not_kept_are_seen(call, server_home):
    run = new_run(call, name="without-events")
    set_state(call, run, "RUNNING")
    set_state(call, run, "COMPLETED")
    state = call("GET", f"/flow_runs/{run['id']}", None)["state"]["id"]
    found = {"filter": {"id": {"id": [state]}}}
    assert wait_for(lambda: call("POST", "/events/filter", found)["events"], 60)
    assert faults(call, "persister") == [[], []]
    with sqlite3.connect(server_home / "prefect" / "prefect.db") as database:
        database.execute("DELETE FROM events")
    now, (later,) = faults(call, "persister")
    assert now == []
    assert "none of without-events, Completed since " in later


def test_old_events_that_stay_are_seen(call):
    event(call, "old", "of.old", datetime.now(UTC) - timedelta(days=9))
    assert all(fault.startswith("Prefect does not remove old events") for (fault,) in faults(call, "vacuum"))


def test_a_server_that_does_not_answer_is_said(call, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    begun = time.monotonic()
    status = yard("status")
    assert status.returncode == 1
    assert "fault: no answer from http://127.0.0.1:" in status.stdout
    assert time.monotonic() - begun < 60
    assert os.environ["PREFECT_API_URL"] in status.stdout
