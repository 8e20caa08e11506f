"""The service that hands runs to Slurm, on a stand-in for Prefect and one for Slurm's commands."""

import json
from dataclasses import dataclass, field

import pytest

from gpu_pools.slurm.commands import Slurm, SlurmAwayError, SlurmFullError, SlurmRefusedError
from gpu_pools.slurm.dispatch import SlurmDispatcher
from gpu_pools.slurm.job_states import Job
from gpu_pools.slurm.records import Records
from tasks.base.servers.password import CLIENT
from tasks.base.workspace import home

QUEUE = "slurm.cuda.training"


@dataclass
class FakeSlurm(Slurm):
    """Jobs in memory; a test moves them on, and says what goes wrong."""

    found: dict[str, Job] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    fault: Exception | None = None
    lost: bool = False  # sbatch's answer does not come, though Slurm has the job

    def submit(self, options, script, env, lock_fd):
        self._fail()
        number = str(len(self.found) + 1)
        comment = next(word.partition("=")[2] for word in options if word.startswith("--comment="))
        self.found[number] = Job(number, "PENDING", "Resources", "", None, comment)
        self.options[number], self.env = [*options, script], dict(env)
        if self.lost:
            raise SlurmAwayError("Socket timed out on send/recv operation")
        return number

    def jobs(self):
        self._fail()
        return list(self.found.values())

    def cancel(self, job_id):
        self._fail()
        self.cancelled.append(job_id)

    def move(self, number, state, reason=""):
        old = self.found[number]
        self.found[number] = Job(number, state, reason, "node1", None, old.comment)

    def _fail(self):
        if self.fault is not None:
            raise self.fault


class Desk:
    """A service whose clock a test turns."""

    def __init__(self, client, slurm):
        self.client, self.slurm, self.now = client, slurm, 1e9
        self.begin()

    def begin(self):
        self._dispatcher = SlurmDispatcher(self.client, Records(), self.slurm, clock=lambda: self.now)

    def turn(self, times=1):
        for _ in range(times):
            self.now += 30
            self._dispatcher.tick()

    def die(self):
        self._dispatcher.close()


@pytest.fixture
def slurm():
    return FakeSlurm()


@pytest.fixture
def desk(client, slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    found = Desk(client, slurm)
    yield found
    found.die()


@pytest.fixture
def add_run(prefect):
    def add(state="SCHEDULED", **fields):
        deployment = prefect.add_deployment("flows.classification.train_classifier", time_limit="1h", cpus=4)
        return prefect.add_run(state, QUEUE, deployment_id=deployment, **fields)

    return add


def test_a_run_is_handed_over_once_and_says_why_it_waits(desk, prefect, slurm, add_run):
    run = add_run(job_variables={"memory": "8G"})
    desk.turn(3)
    assert list(slurm.found) == ["1"]
    assert {"--gres=gpu:1", "--cpus-per-task=4", "--mem=8G", "--time=65", "--requeue"} <= {*slurm.options["1"]}
    assert prefect.state(run) == (
        "SCHEDULED",
        "Waiting",
        "Slurm job 1 waits until enough GPUs, cores or memory are free (Resources)",
    )


def test_other_runs_are_left_to_others(desk, prefect, slurm):
    prefect.add_run("SCHEDULED", "cuda.training")
    prefect.add_run("SCHEDULED", "boxb.cuda:1.training")
    desk.turn(2)
    assert not slurm.found


def test_the_more_urgent_run_is_handed_over_first(desk, slurm, add_run):
    add_run(job_variables={"priority": 9}, name="later")
    add_run(job_variables={"priority": 1}, name="sooner")
    desk.turn()
    assert "--job-name=sooner" in slurm.options["1"]


def test_the_password_stays_out_of_slurms_files(desk, slurm, add_run, monkeypatch):
    monkeypatch.setenv(CLIENT, "anna:secret")
    add_run()
    desk.turn()
    assert "secret" not in json.dumps([slurm.env, slurm.options])
    assert slurm.env["TRAINYARD_HOME"] == str(home())


def test_a_service_that_was_killed_before_it_noted_the_job_finds_it_by_its_comment(desk, slurm, add_run):
    slurm.lost = True
    add_run()
    desk.turn()
    desk.die()
    slurm.lost = False
    desk.begin()
    desk.turn(3)
    assert list(slurm.found) == ["1"]


def test_a_service_that_was_killed_before_sbatch_hands_the_run_over(desk, slurm, add_run):
    slurm.fault = SlurmAwayError("away")
    add_run()
    desk.turn()
    desk.die()
    slurm.fault = None
    desk.begin()
    desk.turn(2)
    assert list(slurm.found) == ["1"]


def test_slurm_away_is_said_once_and_on_the_runs_that_wait(desk, prefect, slurm, add_run, caplog):
    slurm.fault = SlurmAwayError("Unable to contact slurm controller")
    run = add_run()
    desk.turn(4)
    assert [line for line in caplog.messages if "does not answer" in line] == [
        "Slurm does not answer (Unable to contact slurm controller); runs stay as they are"
    ]
    assert prefect.state(run)[2] == "waits for Slurm, which does not answer"
    slurm.fault = None
    desk.turn(2)
    assert prefect.state(run)[2].startswith("Slurm job 1 waits")


def test_a_running_run_stays_as_it_is_while_slurm_is_away(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    slurm.move("1", "RUNNING")
    prefect.set_state(run, "RUNNING")
    slurm.fault = SlurmAwayError("away")
    desk.turn(3)
    assert prefect.state(run)[0] == "RUNNING"


def test_what_slurm_refuses_fails_with_its_words(desk, prefect, slurm, add_run):
    slurm.fault = SlurmRefusedError("Requested node configuration is not available")
    run = add_run()
    desk.turn()
    told = "Slurm refuses the run: Requested node configuration is not available"
    assert prefect.state(run) == ("FAILED", "Failed", told)


def test_a_run_waits_while_its_user_has_as_many_jobs_as_it_may(desk, prefect, slurm, add_run):
    slurm.fault = SlurmFullError("QOSMaxSubmitJobPerUserLimit")
    run = add_run()
    desk.turn()
    assert prefect.state(run)[0] == "SCHEDULED"
    assert "takes no more jobs" in prefect.state(run)[2]


def test_a_wish_out_of_bounds_fails_before_slurm_is_asked(desk, prefect, slurm, add_run):
    run = add_run(job_variables={"partition": "--uid=0"})
    desk.turn()
    assert prefect.state(run)[0] == "FAILED"
    assert not slurm.found


def test_a_strange_deployment_is_not_handed_over(desk, prefect, slurm):
    run = prefect.add_run("SCHEDULED", QUEUE, deployment_id=prefect.add_deployment("evil.module.flow"))
    desk.turn()
    assert prefect.state(run)[0] == "FAILED"
    assert not slurm.found


def test_a_cancel_is_one_scancel_and_ends_cancelled(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    slurm.move("1", "RUNNING")
    prefect.set_state(run, "CANCELLING")
    desk.turn()
    assert slurm.cancelled == ["1"]
    assert prefect.state(run)[0] == "CANCELLING"
    slurm.move("1", "CANCELLED")
    desk.turn()
    assert prefect.state(run)[:2] == ("CANCELLED", "Cancelled")
    desk.turn()
    assert not list((home() / "slurm" / "runs").iterdir())


def test_the_job_of_a_deleted_run_is_cancelled(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    del prefect.runs[run]
    desk.turn()
    assert slurm.cancelled == ["1"]


def test_a_requeued_run_waits_with_slurms_reason(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    prefect.set_state(run, "RUNNING")
    slurm.move("1", "PENDING", "BeginTime")
    desk.turn(2)
    assert prefect.state(run)[:2] == ("SCHEDULED", "Waiting")
    assert "(BeginTime)" in prefect.state(run)[2]
    assert list(slurm.found) == ["1"]


def test_a_run_that_died_with_its_node_is_handed_over_again(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    prefect.set_state(run, "RUNNING")
    slurm.move("1", "NODE_FAIL")
    desk.turn(2)
    assert list(slurm.found) == ["1", "2"]
    assert prefect.state(run)[2].startswith("Slurm job 2 waits")


def test_slurms_time_limit_is_shown_as_what_it_is(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    prefect.set_state(run, "RUNNING")
    slurm.move("1", "TIMEOUT")
    desk.turn()
    told = "Slurm job 1 was stopped by Slurm at its time limit; what it saved is kept"
    assert prefect.state(run) == ("FAILED", "TimedOut", told)


def test_a_run_that_does_not_want_to_wait_is_refused_with_slurms_reason(desk, prefect, slurm, add_run):
    run = add_run(job_variables={"when_busy": "refuse"})
    desk.turn(2)
    assert prefect.state(run)[0] == "CANCELLED"
    assert "(Resources)" in prefect.state(run)[2]
    desk.turn()
    assert slurm.cancelled == ["1"]


def test_a_paused_queue_hands_nothing_over(desk, prefect, slurm, add_run):
    prefect.queues.append({"name": QUEUE, "concurrency_limit": None, "is_paused": True})
    run = add_run()
    desk.turn()
    assert not slurm.found
    assert prefect.state(run)[2] == f"queue {QUEUE} is paused"


def test_a_run_that_is_moved_to_another_device_leaves_slurm(desk, prefect, slurm, add_run):
    run = add_run()
    desk.turn()
    prefect.runs[run]["job_variables"] = {"queue": "cuda:1.training"}
    prefect.set_state(run, "RUNNING")  # on the yard's own worker
    desk.turn()
    assert slurm.cancelled == ["1"]
    slurm.move("1", "CANCELLED")
    desk.turn(2)
    assert prefect.state(run)[0] == "RUNNING"
    assert list(slurm.found) == ["1"]


def test_the_server_away_is_said_once(desk, prefect, slurm, add_run, caplog):
    add_run()
    desk.turn()
    prefect.away = True
    desk.turn(3)
    assert len([line for line in caplog.messages if "Prefect's server does not answer" in line]) == 1


def test_a_home_is_served_by_one_service(desk):
    from tasks.base.errors import ConfigError

    with pytest.raises(ConfigError, match="hands the runs of"):
        Records()
