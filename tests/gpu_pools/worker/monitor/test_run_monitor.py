"""Every run is brought to its end: whatever ends it, whoever is away meanwhile, in one order of duties."""

import json
import os
import signal
import time

import httpx
import pytest

from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.lease import holders
from gpu_pools.slots.ledger import Ledger
from gpu_pools.worker.monitor.end_requests import CHECKPOINT_S, INTERRUPT_S
from gpu_pools.worker.monitor.final_state import MAX_RETRIES
from tasks.base.workspace import run_dir
from tests.gpu_pools.worker.monitored import SLEEPS, STUBBORN, new_entry


def told_mlflow(host, run_id: str) -> str | None:
    """Return what MLflow is told of a run, None if nothing; the monitor looks until it has nothing left to do."""
    deadline = time.monotonic() + 20
    while host.monitor.busy and time.monotonic() < deadline:
        host.tick()
        time.sleep(0.02)
    assert not host.monitor.busy
    told = run_dir(run_id) / "told"
    return told.read_text() if told.exists() else None


def entries(host) -> dict[str, str]:
    """Return run id -> phase of what is in the ledger on disk."""
    return {path.stem: json.loads(path.read_text())["phase"] for path in host.ledger.folder.glob("*.json")}


def assert_ended_after(host, process, seconds: float, number: int, slack_s: float = 0.1) -> None:
    """Hold that a process lives until its time is over, is ended by a signal then, and that the monitor sees it."""
    host.tick(seconds - slack_s)
    assert process.poll() is None
    host.tick(2 * slack_s)
    assert process.wait(10) == -number
    host.tick()


def test_a_run_that_has_said_how_it_ended_is_forgotten(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, ("true",), slot=True)
    prefect.set_state(run_id, "COMPLETED")
    host.tick_until_exit(process)
    assert prefect.state(run_id)[0] == "COMPLETED"
    assert (host.monitor.busy, entries(host), holders()) == (False, {}, [])


def test_a_run_that_was_killed_waits_again_and_keeps_its_slot(prefect, host):
    run_id = prefect.add_run()
    prefect.steps.append({"id": prefect.add_run(), "flow_run_id": run_id, "state": {"type": "RUNNING"}})
    process = host.start(run_id, slot=True)
    process.kill()
    host.tick_until_exit(process)
    assert prefect.state(run_id)[:2] == ("SCHEDULED", "Waiting")
    assert "attempt 2 of 4: the process was killed by SIGKILL" in prefect.state(run_id)[2]
    assert prefect.steps[0]["state"]["type"] == "CRASHED"
    assert (host.returned, host.kept.uuids(run_id)) == ([run_id], ("cpu",))
    assert [holder.run_id for holder in holders()] == [run_id]
    assert (entries(host), told_mlflow(host, run_id)) == ({}, None)  # its MLflow run is gone on with
    assert run_setup.read_attempt(run_id)[0] == 2


def test_a_run_that_died_too_often_crashes_and_ends_what_it_has_started(prefect, host):
    run_id = prefect.add_run()
    child = prefect.add_run("SCHEDULED", parent_flow_run_id=run_id)
    process = host.start(run_id, slot=True, attempt=MAX_RETRIES + 1)
    process.kill()
    host.tick_until_exit(process)
    assert prefect.state(run_id)[:2] == ("CRASHED", "Crashed")
    assert prefect.state(child)[0] == "CANCELLING"
    assert holders() == []
    assert told_mlflow(host, run_id) == "FAILED"
    assert run_setup.read_attempt(run_id) == (1, 0.0)  # a person's retry has all of its attempts again


def test_a_cancelled_run_is_asked_to_end_and_never_looks_crashed(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, slot=True)
    host.tick()
    prefect.set_state(run_id, "CANCELLING")
    host.tick(1)
    assert process.wait(10) == -signal.SIGTERM
    host.tick()
    assert prefect.state(run_id) == ("CANCELLED", "Cancelled", "cancelled")
    assert told_mlflow(host, run_id) == "KILLED"


def test_a_run_that_dies_just_when_it_is_cancelled_is_cancelled(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, slot=True)
    host.tick()
    process.kill()
    process.wait()
    prefect.set_state(run_id, "CANCELLING")
    host.tick()  # within the second in which cancels are not read again
    assert prefect.state(run_id)[0] == "CANCELLED"
    assert host.returned == []


def test_a_run_that_does_not_end_when_asked_is_killed(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, STUBBORN)
    time.sleep(0.2)  # until the shell ignores the signal
    prefect.set_state(run_id, "CANCELLING")
    host.tick()
    assert_ended_after(host, process, INTERRUPT_S, signal.SIGKILL)
    assert prefect.state(run_id)[0] == "CANCELLED"


def test_a_run_over_its_time_limit_times_out(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, limit_s=10.0, spent_s=4.0)
    assert_ended_after(host, process, 6, signal.SIGTERM)
    assert prefect.state(run_id)[:2] == ("FAILED", "TimedOut")
    assert prefect.state(run_id)[2].startswith("stopped after 10 s, its time limit")


def test_what_died_after_its_time_was_up_does_not_start_again(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, ("true",), limit_s=10.0)
    process.wait()
    host.tick(11)
    assert prefect.state(run_id)[:2] == ("FAILED", "TimedOut")


@pytest.mark.parametrize(("argv", "freed_after_s"), [(("true",), 0), (("false",), 10.1)])
def test_slots_become_free_while_the_server_is_away(prefect, host, argv, freed_after_s):
    prefect.away = True
    run_id = prefect.add_run()
    host.start(run_id, argv, slot=True).wait()
    for seconds, held in ((0, freed_after_s > 0), (freed_after_s, False)):
        with pytest.raises(httpx.HTTPStatusError):
            host.tick(seconds)
        assert bool(holders()) is held
    prefect.away = False
    host.tick()
    assert prefect.state(run_id)[1] == "Waiting"


def test_a_time_limit_holds_while_the_server_is_away(prefect, host):
    prefect.away = True
    process = host.start(prefect.add_run(), limit_s=1.0)
    with pytest.raises(httpx.HTTPStatusError):
        host.tick(2)
    assert process.wait(10) == -signal.SIGTERM


def test_a_deleted_run_is_ended(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id)
    del prefect.runs[run_id]
    host.tick()
    host.tick_until_exit(process)
    assert told_mlflow(host, run_id) == "KILLED"


def test_a_process_may_send_what_is_left_after_its_last_state_but_not_for_ever(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id)
    prefect.set_state(run_id, "COMPLETED")
    host.tick()
    assert_ended_after(host, process, 61, signal.SIGTERM, slack_s=2)
    assert prefect.state(run_id)[0] == "COMPLETED"


def test_what_waits_by_itself_again_has_not_ended(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id)
    prefect.set_state(run_id, "COMPLETED")
    host.tick()
    prefect.set_state(run_id, "RUNNING")
    host.tick(30)
    prefect.set_state(run_id, "COMPLETED")
    host.tick(31)
    assert process.poll() is None


def test_a_training_that_is_to_go_on_later_has_time_to_save(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id)
    host.monitor.request_end(run_id, "stop")
    assert run_setup.stop_file(run_id).exists()
    host.tick(CHECKPOINT_S - 1)
    assert process.poll() is None
    host.tick(2)
    assert process.wait(10) == -signal.SIGKILL
    host.tick()
    assert prefect.state(run_id)[1] == "Waiting"
    assert run_setup.read_attempt(run_id)[0] == 1  # it was not its fault
    assert (host.kept.uuids(run_id), run_setup.stop_file(run_id).exists()) == ((), False)


def test_what_has_nothing_to_save_stops_at_once(prefect, host):
    process = host.start(run_id := prefect.add_run(), queue="cpu.pipeline")
    host.monitor.request_end(run_id, "stop")
    host.tick()
    assert process.wait(10) == -signal.SIGKILL


def test_a_cancel_goes_before_a_stop_and_a_stop_never_before_a_cancel(prefect, host):
    host.start(run_id := prefect.add_run())
    host.monitor.request_end(run_id, "stop")
    host.monitor.request_end(run_id, "cancel", "cancelled")
    host.monitor.request_end(run_id, "stop")
    entry = host.monitor.get(run_id)
    assert entry is not None
    assert (entry.ending, entry.reason) == ("cancel", "cancelled")


def test_the_runs_of_a_dead_worker_are_taken_over(prefect, host):
    run_id, other = prefect.add_run(), Ledger("two")
    other.write(new_entry(run_id))
    host.tick()
    assert host.monitor.entries() == []  # the other worker lives
    other.close()
    host.tick(5)
    assert prefect.state(run_id)[1] == "Waiting"
    assert "the process was gone" in prefect.state(run_id)[2]


def test_a_process_whose_worker_died_before_it_noted_it_is_found(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, ("sh", "-c", "sleep 300 & wait", "gpu_pools.process.run_main"))
    host.ledger.write(new_entry(run_id, phase="claimed"))
    host.restart()
    host.tick()
    (entry,) = host.monitor.entries()
    assert (entry.phase, entry.pid) == ("running", process.pid)
    assert entries(host) == {run_id: "running"}
    assert process.poll() is None


def test_what_a_dead_process_left_behind_is_killed_before_the_run_waits(prefect, host):
    run_id = prefect.add_run()
    process = host.start(run_id, ("sh", "-c", "sleep 300 & exit 1"))
    process.wait()
    host.tick()
    assert prefect.state(run_id)[0] == "RUNNING"
    deadline = time.monotonic() + 10
    while prefect.state(run_id)[0] == "RUNNING" and time.monotonic() < deadline:
        host.tick()
    assert prefect.state(run_id)[1] == "Waiting"
    assert run_process.members(run_id, None, None, run_setup.lock_path(run_id)) == []


def test_a_worker_that_comes_back_goes_on_telling_mlflow(prefect, host):
    run_id = prefect.add_run("CRASHED")
    host.ledger.write(new_entry(run_id, phase="closing", reason="FAILED"))
    host.restart()
    assert (host.monitor.entries(), host.monitor.busy) == ([], True)
    assert told_mlflow(host, run_id) == "FAILED"
    assert entries(host) == {}


def test_a_run_that_no_ledger_knows_of_waits_again(prefect, host):
    here, there = (prefect.add_run(infrastructure_pid=f"{place}:1") for place in (host.ledger.place, "boxb:/home"))
    known = prefect.add_run(infrastructure_pid=f"{host.ledger.place}:1")
    Ledger("two").write(new_entry(known))
    host.tick()
    host.tick()
    assert prefect.state(here)[1] == "Waiting"
    assert [prefect.state(run_id)[0] for run_id in (there, known)] == ["RUNNING", "RUNNING"]


def test_a_run_that_is_cancelled_while_it_waits_for_its_next_attempt_is_cancelled(prefect, host):
    run_id = prefect.add_run("CANCELLING", infrastructure_pid=f"{host.ledger.place}:1")
    host.tick()
    host.tick()
    assert prefect.state(run_id)[0] == "CANCELLED"


def test_the_server_is_told_once_where_a_process_is(prefect, host):
    process = host.start(run_id := prefect.add_run(), SLEEPS)
    host.tick()
    host.tick()
    assert prefect.runs[run_id]["infrastructure_pid"] == f"{host.ledger.place}:{process.pid}"
    assert prefect.runs[run_id]["labels"]["trainyard.device"] == "cpu"
    assert prefect.requests.count(("PATCH", f"/flow_runs/{run_id}")) == 1


@pytest.fixture
def boxb(monkeypatch):
    """The ledger of a host on the same home that has gone, with a run of each queue given to the function."""

    def make(*run_ids: str) -> Ledger:
        monkeypatch.setattr("gpu_pools.slots.ledger.host_name", lambda: "boxb")
        ledger = Ledger("boxb")
        for run_id in run_ids:
            ledger.write(new_entry(run_id, "cuda.training", pid=os.getpid(), identity="of another boot"))
        ledger.close()
        monkeypatch.setattr("gpu_pools.slots.ledger.host_name", lambda: "boxa")
        return ledger

    return make


def test_the_runs_of_a_host_that_is_gone_start_again_or_are_cancelled(prefect, host, boxb):
    run_id, cancelled, alive = prefect.add_run(), prefect.add_run("CANCELLING"), prefect.add_run()
    boxb(run_id, cancelled, alive)
    prefect.workers = [{"name": "boxb:two", "status": "ONLINE"}]
    host.tick()
    assert prefect.state(run_id)[0] == "RUNNING"  # only one of its workers is gone
    prefect.workers = [{"name": "boxb:two", "status": "OFFLINE"}]
    lock = run_setup.lock_run(alive)  # as a process of it has, wherever that is
    host.now += 31
    host.tick()
    host.tick()
    assert prefect.state(run_id)[:2] == ("SCHEDULED", "Waiting")
    assert "attempt 2 of 4: the process was gone" in prefect.state(run_id)[2]
    assert prefect.state(cancelled)[0] == "CANCELLED"
    assert prefect.state(alive)[0] == "RUNNING"
    os.close(lock)


def test_what_another_host_took_over_meanwhile_ends_here_without_a_word(prefect, host, monkeypatch):
    run_id = prefect.add_run()
    process = host.start(run_id, slot=True)
    entry = host.ledger.entries()[0]
    host.ledger.remove(run_id)
    with monkeypatch.context() as patch:
        patch.setattr("gpu_pools.slots.ledger.host_name", lambda: "boxb")
        heir = Ledger("boxb")
        heir.write(entry)
    host.now += 6
    host.tick()
    assert process.wait(10) == -signal.SIGKILL
    assert (host.monitor.entries(), prefect.state(run_id)[0]) == ([], "RUNNING")
    assert heir.entries() == [entry]
