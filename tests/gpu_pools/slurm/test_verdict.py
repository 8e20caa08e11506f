import pytest

from gpu_pools.prefect_client import Run
from gpu_pools.slurm.job_states import Job
from gpu_pools.slurm.verdict import judge
from gpu_pools.worker.monitor.final_state import MAX_RETRIES


def run(state, message=""):
    return Run("r", "name", "slurm.cuda.training", None, state, state.capitalize(), message, 0.0, {}, "slurm:9")


def job(state):
    return None if state is None else Job("9", state, "", "node1", None, "trainyard r a")


def judged(state, job_state, attempt=1, n_failed=0):
    found = judge(state and run(state), job(job_state), attempt=attempt, n_failed=n_failed)
    return found.act, found.state.outcome if found.state else None


@pytest.mark.parametrize("job_state", ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED"])
def test_a_run_whose_job_lives_is_left_as_it_is(job_state):
    assert judged("SCHEDULED", job_state) == ("leave", None)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_runs_is_left_alone(state):
    assert judged(state, "RUNNING") == ("leave", None)


@pytest.mark.parametrize("job_state", ["PENDING", "RUNNING"])
@pytest.mark.parametrize("state", ["CANCELLING", "CANCELLED", None])
def test_the_job_of_a_cancelled_or_deleted_run_is_cancelled(state, job_state):
    assert judged(state, job_state) == ("cancel job", None)


@pytest.mark.parametrize("job_state", ["CANCELLED", "COMPLETED", "FAILED", None])
def test_a_run_is_cancelled_once_its_job_is_over(job_state):
    assert judged("CANCELLING", job_state) == ("set state", "cancelled")
    assert judged("CANCELLED", job_state) == ("forget", None)


def test_a_process_that_has_said_its_last_word_ends_by_itself():
    assert judged("COMPLETED", "RUNNING") == ("leave", None)
    assert judged("COMPLETED", "PENDING") == ("cancel job", None)
    assert judged("COMPLETED", "COMPLETED") == ("forget", None)


@pytest.mark.parametrize("state", ["SCHEDULED", "RUNNING"])
@pytest.mark.parametrize(
    ("job_state", "outcome"), [("CANCELLED", "cancelled"), ("TIMEOUT", "timed out"), ("DEADLINE", "timed out")]
)
def test_what_slurm_did_to_the_job_is_what_became_of_the_run(state, job_state, outcome):
    assert judged(state, job_state) == ("set state", outcome)


def test_a_requeued_run_waits_and_its_attempt_does_not_count():
    found = judge(run("RUNNING"), job("PENDING"), attempt=2, n_failed=0)
    assert (found.state.outcome, found.state.attempt) == ("waits", 2)
    assert "Slurm job 9 was requeued" in found.state.message


@pytest.mark.parametrize("job_state", ["PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_a_run_that_lost_its_node_goes_on_without_blame(job_state):
    found = judge(run("RUNNING"), job(job_state), attempt=4, n_failed=0)
    assert (found.state.outcome, found.state.attempt) == ("waits", 4)
    assert judge(run("SCHEDULED"), job(job_state), attempt=1, n_failed=3).act == "hand over"


@pytest.mark.parametrize("job_state", ["FAILED", "OUT_OF_MEMORY", "COMPLETED", None])
def test_a_run_that_died_with_its_job_starts_again_until_it_is_given_up(job_state):
    found = judge(run("RUNNING"), job(job_state), attempt=1, n_failed=0)
    assert (found.state.outcome, found.state.attempt) == ("waits", 2)
    assert judged("RUNNING", job_state, attempt=MAX_RETRIES + 1) == ("set state", "crashed")


def test_a_job_that_says_nothing_is_tried_a_few_times():
    found = judge(run("SCHEDULED"), job("FAILED"), attempt=1, n_failed=0)
    assert (found.act, found.counts) == ("hand over", True)
    assert judged("SCHEDULED", "FAILED", n_failed=MAX_RETRIES) == ("set state", "crashed")
