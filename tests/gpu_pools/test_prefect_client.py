"""What the worker asks of Prefect's server, over HTTP."""

import time

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from gpu_pools.prefect_client import make_state


def test_every_page_is_read(prefect, client):
    ids = [prefect.add_run("SCHEDULED") for _ in range(401)]
    assert [run.id for run in client.due()] == ids
    assert prefect.requests.count(("POST", "/flow_runs/filter")) == 3


def test_a_run_has_its_deployments_variables_below_its_own(prefect, client):
    deployment = prefect.add_deployment("flows.a.b", priority=3, owner="all", time_limit="5h")
    prefect.add_run("SCHEDULED", deployment_id=deployment, job_variables={"priority": 1, "time_limit": None})
    (run,) = client.due()
    assert (run.job_variables, run.owner) == ({"priority": 1, "owner": "all", "time_limit": "5h"}, "all")


def test_only_what_has_come_due_since_is_asked_for(prefect, client):
    prefect.add_run("SCHEDULED")
    later = prefect.add_run("SCHEDULED", expected_start_time="2026-01-02T00:00:00Z")
    prefect.add_run("SCHEDULED", expected_start_time="2999-01-01T00:00:00Z")
    since = time.mktime((2026, 1, 1, 12, 0, 0, 0, 0, 0))
    assert [run.id for run in client.due(time.time() - since)] == [later]


def test_what_the_server_refuses_and_what_is_deleted_are_not_claimed(prefect, client):
    run_id, state = prefect.add_run("SCHEDULED"), make_state(StateType.PENDING, "Pending", "starts on cpu")
    prefect.refused = {run_id}
    assert client.propose(run_id, state) is None
    prefect.refused = set()
    assert client.propose(run_id, state) == prefect.runs[run_id]["state"]["id"]
    del prefect.runs[run_id]
    assert client.propose(run_id, state) is None


def test_writing_on_a_deleted_run_is_no_error(prefect, client):
    run_id = prefect.add_run()
    gone = dict(prefect.runs)
    prefect.runs.clear()
    client.set_infrastructure(run_id, "here:1")
    client.set_device(run_id, "boxa", "cuda:0")
    client.add_tag(run_id, "shared")
    client.force(run_id, make_state(StateType.CRASHED, "Crashed", "gone"))
    assert client.by_id([run_id]) == {}
    assert gone[run_id]["infrastructure_pid"] is None


@pytest.mark.parametrize("n_busy", [0, 1, 5, 6])
def test_labels_that_another_write_kept_out_are_written_soon(prefect, client, monkeypatch, n_busy):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    run_id = prefect.add_run()
    prefect.n_busy = n_busy
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 8}):
        client.set_labels(run_id, {"a": 1.0})
    assert prefect.runs[run_id]["labels"] == {"a": 1.0}
    assert len(pauses) == n_busy
    assert sum(pauses[:5]) < 3
    assert all(pause > 1 for pause in pauses[5:]), "then as patiently as all of Prefect's client"


def test_only_steps_that_have_not_ended_are_ended(prefect, client):
    run_id = prefect.add_run()
    for state in ("RUNNING", "COMPLETED", "PENDING"):
        step = {"id": f"00000000-0000-0000-0000-{len(prefect.steps):012}", "flow_run_id": run_id}
        prefect.steps.append({**step, "state": {"type": state}})
    client.end_steps(run_id, make_state(StateType.CRASHED, "Crashed", "gone"))
    assert [step["state"]["type"] for step in prefect.steps] == ["CRASHED", "COMPLETED", "CRASHED"]


def test_a_server_that_is_away_is_an_error(prefect, client):
    prefect.away = True
    with pytest.raises(httpx.HTTPStatusError):
        client.due()
