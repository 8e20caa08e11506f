"""When a run is due is a matter of the server's clock, whatever the clock of the host says."""

import time
from email.utils import formatdate

import httpx
import pytest

from gpu_pools.prefect_client import PoolClient
from gpu_pools.server_clock import ServerClock

NOW = 1_800_000_000.0


def answer(at: float | None, **headers: str) -> httpx.Response:
    dated = {"Date": formatdate(int(at), usegmt=True)} if at is not None else {}
    return httpx.Response(200, headers=dated | headers)


@pytest.mark.parametrize("ahead_s", [240, 3, -3, -240, 86_400])
def test_a_clock_that_is_wrong_is_set_right(ahead_s):
    clock = ServerClock(lambda: NOW + ahead_s)
    clock.note(answer(NOW))
    assert clock.now() == pytest.approx(NOW, abs=1)


@pytest.mark.parametrize("ahead_s", [-0.9, 0.0, 0.9, 1.9])  # the time of an answer is cut to seconds
def test_a_clock_that_agrees_is_taken_as_it_is(ahead_s):
    clock = ServerClock(lambda: NOW + ahead_s)
    clock.note(answer(NOW))
    assert clock.now() == NOW + ahead_s


def test_a_clock_that_is_set_right_counts_again():
    times = iter([NOW + 240, NOW + 240, NOW + 1, NOW + 1])
    clock = ServerClock(lambda: next(times))
    clock.note(answer(NOW))
    assert clock.now() == NOW
    clock.note(answer(NOW + 1))
    assert clock.now() == NOW + 1


@pytest.mark.parametrize("told", [answer(None), answer(None, Date="soon")])
def test_an_answer_without_a_date_says_nothing(told):
    clock = ServerClock(lambda: NOW)
    clock.note(told)
    assert clock.now() == NOW


def test_a_worker_whose_clock_is_behind_sees_what_is_due(prefect, monkeypatch):
    run = prefect.add_run(
        "SCHEDULED", expected_start_time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 5))
    )
    late = ServerClock(lambda: time.time() - 240)
    monkeypatch.setattr("gpu_pools.prefect_client.ServerClock", lambda: late)
    client = PoolClient()
    assert client.due() == []  # nothing was heard of the server yet
    assert [one.id for one in client.due(30)] == [run]
