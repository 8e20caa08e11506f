"""A device that is one training's alone, and what is said where it is not."""

import os
import time

import pytest

from gpu_pools.placement.devices import Device, GpuProcess
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import SimulatedProbe
from gpu_pools.prefect_client import QueueState
from gpu_pools.slots.lease import Holder, acquire, holders
from tasks.trial.report import Place
from tasks.trial.slots import after_a_death, death_row, foreign_process, foreign_row, kept_off, newcomers

CPU = Place("cpu", "the CPU", "cpu", "cpu")
SIMULATED = Place("cuda:0", "simulated GPU 0", "GPU-simulated-0", "cpu")
REAL = Place("cuda:0", "NVIDIA H200", "GPU-1", "cuda")


@pytest.fixture(autouse=True)
def _locks(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))


@pytest.fixture
def host():
    return HostState("boxa", SimulatedProbe(1))


def take(place: Place):
    holder = Holder("r", "trial", "anna@boxa", place.tag, place.uuid, "training", -1, os.getpid(), time.time(), None)
    lease = acquire(place.uuid, "training", 1, holder)
    assert lease is not None
    return lease


@pytest.mark.parametrize(("place", "limit"), [(SIMULATED, 1), (CPU, 2)])
def test_a_training_beyond_the_limit_is_kept_off_and_nothing_stays_held(host, place, limit):
    with take(place):
        row = kept_off(place, host, {})
        assert len(holders(place.uuid)) == 1
    assert row.verdict == "ok"
    assert row.values == {"limit": limit, "held": limit}
    assert "trial of anna@boxa since" in row.figure


def test_locks_that_keep_nobody_off_are_a_failure(host, tmp_path, monkeypatch):
    folders = iter(range(100))
    monkeypatch.setattr("gpu_pools.slots.lease.lock_dir", lambda: made(tmp_path / f"locks{next(folders)}"))
    row = kept_off(SIMULATED, host, {})
    assert row.verdict == "failed"
    assert "folder of locks" in row.todo


def made(folder):
    folder.mkdir()
    return folder


def test_the_limit_that_people_set_counts(host):
    queues = {"cuda:0.training": QueueState("cuda:0.training", 3, False)}
    with take(SIMULATED):
        assert kept_off(SIMULATED, host, queues).values == {"limit": 3, "held": 3}


def test_the_slot_of_a_killed_process_is_free_at_once(tmp_path):
    (row,) = after_a_death(CPU, tmp_path)
    assert row.verdict == "ok"
    assert row.values["slot_s"] < 1
    assert holders() == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"slot_s": None}, "slot still held"),
        ({"back_s": None, "left_mib": 900}, "900 MiB missing"),
        ({"taken_mib": 3}, "3 MiB back"),
    ],
)
def test_what_a_death_does_not_give_back_is_a_failure(found, said):
    well = {"slot_s": 0.0, "taken_mib": 1500, "back_s": 0.4, "left_mib": 0}
    assert death_row(REAL, **well).verdict == "ok"
    row = death_row(REAL, **(well | found))
    assert row.verdict == "failed"
    assert said in row.figure
    assert row.todo


def test_a_cpu_has_no_foreign_processes(tmp_path):
    (row,) = foreign_process(CPU, tmp_path)
    assert row.verdict == "not here"


def process(pid):
    return GpuProcess(pid, "anna", "python", 500)


def test_newcomers_are_no_runs_and_were_not_there_before():
    device = Device(
        0, "GPU-1", "NVIDIA H200", "9.0", 1000, 10, 990, 0, None, None, tuple(map(process, (1, 2, os.getpid())))
    )
    assert newcomers(device, {os.getpid()}, {2}) == [process(1)]


def test_a_foreign_process_is_named_and_one_that_nobody_sees_is_a_failure():
    assert "seen after 0.3 s: 7 (python) of anna, 500 MiB" in foreign_row(7, [process(7)], 0.3).figure
    other = foreign_row(7, [process(99)], 0.3)
    assert other.verdict == "ok"
    assert "as in a container" in other.figure
    unseen = foreign_row(7, [], None)
    assert unseen.verdict == "failed"
    assert "--pid=host" in unseen.todo
