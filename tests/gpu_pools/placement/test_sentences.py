"""What is written on a waiting run takes nothing back that another worker has written meanwhile."""

import time

from prefect.client.schemas.objects import StateType

from gpu_pools.placement.place import Wait
from gpu_pools.placement.sentences import Sentences
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import make_state


def test_a_run_that_another_worker_claims_at_the_same_moment_stays_its_own(prefect, client, monkeypatch):
    run_id = prefect.add_run("SCHEDULED")
    run = client.by_id([run_id])[run_id]
    answer = prefect.answer

    def claims_first(method, path, body):
        if path.endswith("/set_state"):
            monkeypatch.setattr(prefect, "answer", answer)
            assert client.propose(run_id, make_state(StateType.PENDING, "Pending", "starts on cuda:0"), run.state_id)
        return answer(method, path, body)

    sentences = Sentences(client, WaitList(client, time.time), time.time)
    monkeypatch.setattr(prefect, "answer", claims_first)
    sentences.tell([(run, Wait(run_id, "waits for a GPU"))], {run_id})
    assert prefect.state(run_id) == ("PENDING", "Pending", "starts on cuda:0")
