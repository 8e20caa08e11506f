"""A run gets slot, claim and process, or none of them is left."""

import json
import time

import httpx
import pytest

from gpu_pools.prefect_client import waiting_state
from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.lease import holders
from tests.gpu_pools.worker.monitored import take_slot

FLOW = "flows.classification.train_classifier"


def due(prefect, entrypoint: str = FLOW, **variables) -> str:
    """Add a run that is due, with job variables of its own; return its id."""
    return prefect.add_run("SCHEDULED", deployment_id=prefect.add_deployment(entrypoint), job_variables=variables)


def start(dispatcher, run_id: str) -> bool:
    """Start a run on the CPU."""
    run = dispatcher._starter._client.by_id([run_id])[run_id]
    return bool(dispatcher._starter.start(run, "cpu", {}))


def noted(dispatcher) -> list[str]:
    """Return the phases of the runs in the ledger on disk."""
    return [json.loads(path.read_text())["phase"] for path in dispatcher._ledger.folder.glob("*.json")]


def test_a_run_has_its_slot_its_claim_and_its_process(prefect, dispatcher):
    run_id = due(prefect, env={"OMP_NUM_THREADS": "3"}, time_limit="90s", priority=2)
    assert start(dispatcher, run_id)
    (entry,) = dispatcher.active
    assert (entry.phase, entry.limit_s, entry.priority, entry.attempt) == ("running", 90.0, 2, 1)
    assert prefect.state(run_id)[:2] == ("PENDING", "Pending")
    (holder,) = holders()
    assert (holder.run_id, holder.pid) == (run_id, entry.pid)
    assert noted(dispatcher) == ["running"]
    assert run_setup.lock_path(run_id).read_text() == str(entry.pid)
    assert not run_setup.run_is_dead(run_id)  # its process holds the lock
    run_process.kill(run_id, entry.pid, entry.identity, run_setup.lock_path(run_id))


def test_a_run_that_was_cancelled_meanwhile_leaves_nothing(prefect, dispatcher):
    run_id = due(prefect)
    run = dispatcher._starter._client.by_id([run_id])[run_id]
    prefect.set_state(run_id, "CANCELLED")
    assert dispatcher._starter.start(run, "cpu", {})
    assert (holders(), noted(dispatcher), dispatcher.active) == ([], [], [])
    assert prefect.state(run_id)[0] == "CANCELLED"


def test_a_claim_that_the_server_refuses_leaves_nothing(prefect, dispatcher):
    run_id = due(prefect)
    prefect.refused = {run_id}
    assert start(dispatcher, run_id)
    assert (holders(), noted(dispatcher), dispatcher.active) == ([], [], [])


def test_what_another_worker_says_meanwhile_is_no_obstacle(prefect, dispatcher, monkeypatch):
    run_id = due(prefect)
    client, answer = dispatcher._starter._client, prefect.answer
    read = client.by_id([run_id])[run_id]

    def says_something_first(method, path, body):
        if path.endswith("/set_state"):
            monkeypatch.setattr(prefect, "answer", answer)
            assert client.propose(run_id, waiting_state("waits for a GPU", read.since), read.state_id)
        return answer(method, path, body)

    monkeypatch.setattr(prefect, "answer", says_something_first)
    assert start(dispatcher, run_id)
    (entry,) = dispatcher.active
    assert prefect.state(run_id)[0] == "PENDING"
    run_process.kill(run_id, entry.pid, entry.identity, run_setup.lock_path(run_id))


def test_a_slot_that_was_taken_meanwhile_is_waited_for(prefect, dispatcher):
    slots = [take_slot(name) for name in "ab"]
    assert not start(dispatcher, due(prefect))
    for slot in slots:
        slot.release()


def test_a_run_whose_process_still_lives_does_not_start_again(prefect, dispatcher, host):
    run_id = due(prefect)
    host.start(run_id)
    assert not start(dispatcher, run_id)
    assert holders() == []


@pytest.mark.parametrize(
    ("entrypoint", "variables", "text"),
    [
        ("evil.module.flow", {}, "found a deployment of 'evil.module.flow'"),
        (FLOW, {"time_limit": "soon"}, "time_limit: "),
        (FLOW, {"env": {"LD_PRELOAD": "x"}}, "env: found LD_PRELOAD"),
    ],
)
def test_what_may_not_start_fails_with_a_sentence_and_leaves_nothing(prefect, dispatcher, entrypoint, variables, text):
    run_id = due(prefect, entrypoint, **variables)
    dispatcher.tick()
    assert prefect.state(run_id)[0] == "FAILED"
    assert text in prefect.state(run_id)[2]
    assert (holders(), noted(dispatcher), dispatcher.active) == ([], [], [])


def test_a_server_that_goes_away_at_the_claim_is_asked_later_what_became_of_it(prefect, dispatcher, monkeypatch):
    run_id = due(prefect)
    answer = prefect.answer

    def away_after_the_claim(method, path, body):
        found = answer(method, path, body)
        return (500, {}) if path.endswith("/set_state") else found  # it has the claim, and nobody hears of it

    monkeypatch.setattr(prefect, "answer", away_after_the_claim)
    with pytest.raises(httpx.HTTPStatusError):
        start(dispatcher, run_id)
    assert (holders(), noted(dispatcher)) == ([], ["claimed"])
    assert prefect.state(run_id)[0] == "PENDING"
    monkeypatch.setattr(prefect, "answer", answer)
    dispatcher._monitor.tick()
    assert prefect.state(run_id)[1] == "Waiting"
    assert "the worker was gone before the run had a process" in prefect.state(run_id)[2]


def test_a_later_attempt_knows_what_the_earlier_ones_took(prefect, dispatcher, host):
    run_id = due(prefect, time_limit="60s")
    run_setup.write_attempt(run_id, 3, 59.5)
    assert start(dispatcher, run_id)
    (entry,) = dispatcher.active
    assert (entry.attempt, entry.spent_s) == (3, 59.5)
    host.now = time.time() + 1
    dispatcher._monitor.tick()
    (entry,) = dispatcher.active
    assert entry.ending == "time limit"
    run_process.kill(run_id, entry.pid, entry.identity, run_setup.lock_path(run_id))
