"""Another process on the run's GPU: seen by the run itself, told of once, and in MLflow by epoch."""

import json
import logging
import os
import subprocess
import sys
import time

import pytest

from gpu_pools.placement.probe import SimulatedProbe
from tasks.tracking import foreign, mlflow_api
from tasks.tracking.foreign import MEMORY, NUMBER, ForeignWatch
from tasks.tracking.tracker import Tracker

GPU = "GPU-simulated-0"


@pytest.fixture
def stranger(tmp_path):
    """A process that descends from nobody here; its number."""
    script = tmp_path / "train.py"
    script.write_text("import time; time.sleep(600)")
    line = f"{sys.executable} {script} --password secret >{os.devnull} 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout)
    while b"train.py" not in open(f"/proc/{pid}/cmdline", "rb").read():
        time.sleep(0.01)
    yield pid
    os.kill(pid, 9)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A state folder whose database, which takes seconds to lay out, is there for all."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def busy(tmp_path, home, monkeypatch):
    """Sets who is on the GPU: (process number, MiB) each."""
    monkeypatch.setenv("TRAINYARD_HOME", str(home))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(foreign, "_AGAIN_S", 0.0)

    def put(*processes: tuple[int, int]) -> None:
        found = [{"pid": pid, "user": "bob", "name": "python", "memory_mib": mib} for pid, mib in processes]
        (tmp_path / "new.json").write_text(json.dumps({"cuda:0": {"processes": found}}))
        os.replace(tmp_path / "new.json", tmp_path / "state.json")

    put()
    return put


@pytest.fixture
def watched(tmp_path, busy):
    """Opens a run that looks for strangers."""

    def opened(probe=None):
        tracker = Tracker.open(tmp_path / "run", "foreign", "r", {})
        probe = probe or SimulatedProbe(1, tmp_path / "state.json")
        return tracker, ForeignWatch(tracker, logging.getLogger("run"), probe, [GPU], every_s=0.05)

    return opened


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(tracker, step):
    """End an epoch, and wait for its metrics."""
    tracker.step_ended(step)
    until(lambda: step in tracker.logged_steps(NUMBER))


def rows(tracker, key):
    return sorted((m.step, m.value) for m in mlflow_api.client().get_metric_history(tracker.run_id, key))


def test_a_stranger_has_its_epochs_its_tag_and_one_warning(watched, busy, stranger, caplog):
    tracker, watch = watched()
    with tracker, watch:
        ended(tracker, 1)
        busy((stranger, 900))
        until(lambda: tracker.logged_tag(foreign.TAG))  # between two epochs
        busy((stranger, 2100), (os.getpid(), 500))
        ended(tracker, 2)
        busy()
        ended(tracker, 3)
        ended(tracker, 4)
    assert rows(tracker, NUMBER) == [(1, 0), (2, 1), (3, 1), (4, 0)]  # it was there when epoch 3 began
    assert rows(tracker, MEMORY) == [(1, 0), (2, 2100), (3, 2100), (4, 0)]
    tags = mlflow_api.client().get_run(tracker.run_id).data.tags
    assert tags["foreign_process"] == f"pid {stranger} (bob, python train.py), 2100 MiB"
    (line,) = [record.message for record in caplog.records if "is no run" in record.message]
    assert line.startswith(f"pid {stranger} (bob, python train.py) computes on this run's GPU and is no run, 900 MiB")


def test_a_restart_keeps_who_was_there_before(watched, busy, stranger):
    for pid, mib in ((stranger, 900), (1, 70)):
        busy((pid, mib))
        tracker, watch = watched()
        with tracker, watch:
            ended(tracker, mib)
            tracker.leave_open()
    told = mlflow_api.client().get_run(tracker.run_id).data.tags["foreign_process"]
    assert told.startswith(f"pid {stranger} (bob, python train.py), 900 MiB; pid 1 (bob, python")


def test_the_runs_own_children_are_not_foreign(watched, busy):
    with subprocess.Popen(["sleep", "60"]) as child:
        busy((child.pid, 900), (os.getpid(), 500))
        tracker, watch = watched()
        with tracker, watch:
            ended(tracker, 1)
        child.kill()
    assert rows(tracker, NUMBER) == [(1, 0)]
    assert "foreign_process" not in mlflow_api.client().get_run(tracker.run_id).data.tags


def test_a_run_without_epochs_has_the_figures_at_step_0(watched, busy, stranger):
    busy((stranger, 900))
    tracker, watch = watched()
    with tracker, watch:
        pass
    assert rows(tracker, MEMORY) == [(0, 900)]


def test_numbers_of_another_system_give_no_figures(watched, busy):
    busy((2**22 + 1, 900))  # more than the kernel gives to a process
    tracker, watch = watched()
    with tracker, watch:
        tracker.step_ended(1)
    assert rows(tracker, NUMBER) == []


def test_a_gpu_that_falls_off_the_bus_is_told_of_once_and_ends_nothing(watched, caplog):
    tracker, watch = watched(SimulatedProbe(0))
    with tracker, watch:
        tracker.step_ended(1)
        time.sleep(0.3)
    assert rows(tracker, NUMBER) == []
    assert caplog.text.count("is not known for now: found no GPU GPU-simulated-0") == 1


def test_a_stranger_on_several_of_the_runs_gpus_is_one_with_all_its_memory(tmp_path, busy, stranger):
    process = {"pid": stranger, "user": "bob", "name": "python"}
    state = {f"cuda:{n}": {"processes": [{**process, "memory_mib": mib}]} for n, mib in enumerate((200, 300))}
    (tmp_path / "state.json").write_text(json.dumps(state))
    probe, gpus = SimulatedProbe(2, tmp_path / "state.json"), [GPU, "GPU-simulated-1"]
    tracker = Tracker.open(tmp_path / "run", "foreign", "r", {})
    with tracker, ForeignWatch(tracker, logging.getLogger("run"), probe, gpus):
        ended(tracker, 1)
    assert (rows(tracker, NUMBER), rows(tracker, MEMORY)) == ([(1, 1)], [(1, 500)])
    assert tracker.logged_tag(foreign.TAG) == f"pid {stranger} (bob, python train.py), 500 MiB"
