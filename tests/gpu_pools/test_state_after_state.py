"""Of two that would follow the same state of a run, Prefect's server takes the first one; the real server does."""

import time

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from gpu_pools.prefect_client import PoolClient, make_state, waiting_state
from tests.gpu_pools.real_pool import add_run

pytestmark = pytest.mark.usefixtures("on_a_real_server")


@pytest.fixture
def run_id():
    with get_client(sync_client=True) as api:
        return add_run(api, "cuda.training")


CLAIM = make_state(StateType.PENDING, "Pending", "starts on cuda:0")
SENTENCE = waiting_state("waits for a GPU", time.time() - 1)


@pytest.mark.parametrize(("first", "second"), [(CLAIM, SENTENCE), (SENTENCE, CLAIM), (CLAIM, CLAIM)])
def test_the_second_one_is_refused(run_id, first, second):
    client = PoolClient()
    before = client.by_id([run_id])[run_id].state_id
    assert client.propose(run_id, first, before)
    assert client.propose(run_id, second, before) is None
    assert client.by_id([run_id])[run_id].message == first.message


def test_one_after_the_other_are_taken(run_id):
    client = PoolClient()
    for state in (SENTENCE, SENTENCE, CLAIM):
        told = client.propose(run_id, state, client.by_id([run_id])[run_id].state_id)
        assert told == client.by_id([run_id])[run_id].state_id
    assert client.by_id([run_id])[run_id].state == "PENDING"


def test_without_a_state_to_follow_a_claim_is_taken_back(run_id):
    client = PoolClient()
    assert client.propose(run_id, CLAIM)
    assert client.propose(run_id, SENTENCE)
