"""Where a run belongs when its process is gone."""

import pytest

from gpu_pools.process.run_setup import EXIT_SUPERSEDED
from gpu_pools.worker.monitor.final_state import MAX_RETRIES, final_state


def after(state, **known):
    return final_state(state, **{"phase": "running", "attempt": 1, "ending": None, **known})


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED", "SCHEDULED", "PAUSED"])
def test_a_run_that_said_how_it_ended_is_left_alone(state):
    assert after(state, exit_code=0).outcome == "nothing"


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CRASHED", "CANCELLING", "SCHEDULED"])
def test_a_cancelled_run_ends_cancelled_whatever_its_last_word_was(state):
    assert after(state, ending="cancel").outcome == "cancelled"


def test_cancelling_counts_without_the_worker_having_asked():
    assert after("CANCELLING").outcome == "cancelled"


@pytest.mark.parametrize("state", ["RUNNING", "CRASHED"])
def test_a_dead_run_waits_for_its_next_attempt(state):
    found = after(state, exit_code=-9)
    assert (found.outcome, found.attempt) == ("waits", 2)
    assert found.message == (
        "starts again, from its checkpoint if it has one, attempt 2 of 4: "
        "the process was killed by SIGKILL, often for want of memory"
    )


def test_the_fourth_death_is_the_last():
    found = after("RUNNING", attempt=MAX_RETRIES + 1, exit_code=-11)
    assert found.outcome == "crashed"
    assert "given up after 4 attempts: the process was killed by SIGSEGV" in found.message


def test_a_stop_of_the_worker_does_not_count_as_an_attempt():
    found = after("RUNNING", attempt=4, ending="stop", exit_code=75)
    assert (found.outcome, found.attempt) == ("waits", 4)


def test_a_claim_without_a_process_does_not_count_as_an_attempt():
    found = after("PENDING", phase="claimed", attempt=2)
    assert (found.outcome, found.attempt) == ("waits", 2)


def test_a_run_that_ended_well_before_the_stop_took_hold_is_left_alone():
    assert after("COMPLETED", ending="stop").outcome == "nothing"


def test_a_time_limit_is_named_even_where_the_engine_said_crashed():
    found = after("CRASHED", ending="time limit", reason="stopped after 2 s")
    assert (found.outcome, found.message) == ("timed out", "stopped after 2 s")


def test_a_superseded_process_leaves_the_run_to_whom_it_belongs():
    assert after("RUNNING", exit_code=EXIT_SUPERSEDED).outcome == "nothing"
