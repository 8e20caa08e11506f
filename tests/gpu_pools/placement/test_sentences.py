"""What is written on a waiting run takes nothing back that another worker has written meanwhile."""

import time

import pytest
from prefect.client.schemas.objects import StateType

from gpu_pools.placement.place import Wait
from gpu_pools.placement.sentences import Sentences
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import make_state, waiting_state


@pytest.fixture
def first(prefect, monkeypatch):
    """Return a function that lets another worker be first to give a run a state."""

    def let(run_id, state, client, after):
        answer = prefect.answer

        def is_first(method, path, body):
            if path.endswith("/set_state"):
                monkeypatch.setattr(prefect, "answer", answer)
                assert client.propose(run_id, state, after)
            return answer(method, path, body)

        monkeypatch.setattr(prefect, "answer", is_first)

    return let


def test_a_run_that_another_worker_claims_at_the_same_moment_stays_its_own(prefect, client, first):
    run_id = prefect.add_run("SCHEDULED")
    run = client.by_id([run_id])[run_id]
    sentences = Sentences(client, WaitList(client, time.time), time.time)
    first(run_id, make_state(StateType.PENDING, "Pending", "starts on cuda:0"), client, run.state_id)
    sentences.tell([(run, Wait(run_id, "waits for a GPU"))], {run_id})
    assert prefect.state(run_id) == ("PENDING", "Pending", "starts on cuda:0")


def test_what_another_worker_says_at_the_same_moment_is_followed_at_the_next_turn(prefect, client, first):
    run_id = prefect.add_run("SCHEDULED")
    run = client.by_id([run_id])[run_id]
    sentences = Sentences(client, WaitList(client, time.time), time.time)
    first(run_id, waiting_state("waits for boxa", run.since), client, run.state_id)
    for said in ("waits for boxa", "waits for boxb"):
        sentences.tell([(run, Wait(run_id, "waits for boxb"))], {run_id})
        assert prefect.state(run_id)[2] == said
