"""A run in a terminal whose process is gone has its last state; one that lives, or is elsewhere, is left alone."""

import os
import subprocess

import pytest

from gpu_pools.names import GIVEN_BACK_LABEL, PROCESS_LABEL, host_name
from gpu_pools.process.process_label import process_label
from gpu_pools.process.terminal_runs import TerminalRuns
from tasks.base.processes import identity
from tests.gpu_pools.worker.monitored import SLEEPS


@pytest.fixture
def terminals(client):
    """Yield what looks for them, with what it has told of."""
    told = []
    found = TerminalRuns(client, lambda *words: told.append(words))
    found.told = told
    return found


def of_process(pid, **changes):
    known = {"host": host_name(), "namespace": os.readlink("/proc/self/ns/pid"), "identity": identity(pid), **changes}
    return {PROCESS_LABEL: f"{known['host']} {known['namespace']} {pid} {known['identity']}"}


def run_of(prefect, labels, **fields):
    return prefect.add_run("RUNNING", queue=None, name="mine", labels=labels, **fields)


def test_the_run_of_a_process_that_was_killed_is_crashed_with_its_stages_and_steps(prefect, terminals):
    with subprocess.Popen(SLEEPS) as process:
        run_id = run_of(prefect, of_process(process.pid))
        stage = run_of(prefect, {}, parent_flow_run_id=run_id)
        elsewhere = prefect.add_run("RUNNING", queue="cpu.training", parent_flow_run_id=run_id)  # a worker has it
        prefect.steps.append({"id": run_id, "flow_run_id": stage, "state": {"type": "RUNNING"}})
        terminals.look()
        assert prefect.state(run_id)[0] == "RUNNING"
        process.kill()
    terminals.look()
    assert prefect.state(run_id) == ("CRASHED", "Crashed", "its process is gone: it was killed, or its host went down")
    assert (prefect.state(stage)[0], prefect.steps[0]["state"]["type"]) == ("CRASHED", "CRASHED")
    assert prefect.state(elsewhere)[0] == "RUNNING"
    assert terminals.told == [(run_id, "mine", "crashed")]
    terminals.look()
    assert len(terminals.told) == 1


def test_one_that_was_given_back_is_cancelled_with_the_reason(prefect, terminals):
    with subprocess.Popen(["true"]) as process:
        labels = of_process(process.pid)
    run_id = run_of(prefect, labels | {GIVEN_BACK_LABEL: "gave cuda:0 back"})
    terminals.look()
    assert prefect.state(run_id) == ("CANCELLED", "Cancelled", "gave cuda:0 back")


def test_a_process_with_the_number_of_another_one_is_another(prefect, terminals):
    run_id = run_of(prefect, of_process(os.getpid(), identity="boot:1"))
    terminals.look()
    assert prefect.state(run_id)[0] == "CRASHED"


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}])
def test_a_process_of_another_host_or_container_is_left_alone(prefect, terminals, change):
    run_id = run_of(prefect, of_process(2**22 + 1, **change))
    terminals.look()
    assert prefect.state(run_id)[0] == "RUNNING"


def test_one_that_lives_or_says_nothing_of_its_process_is_left_alone(prefect, terminals):
    runs = [run_of(prefect, labels) for labels in (process_label(), {}, {PROCESS_LABEL: "x"}, of_process(1))]
    terminals.look()
    assert {prefect.state(run_id)[0] for run_id in runs} == {"RUNNING"}
