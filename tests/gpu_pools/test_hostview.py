"""What a host offers: limits as set in Prefect, devices without those in use by others, the hosts there are."""

import json
import os
import time

import pytest

from gpu_pools.hostview import HostView
from gpu_pools.lease import Holder, acquire
from gpu_pools.probe import get_probe
from gpu_pools.queues import parse_queue
from gpu_pools.server import QueueState, Run

NOBODY = 2**22 + 1  # more than the kernel gives to a process


@pytest.fixture
def state(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_text("{}")
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setenv("TRAINYARD_SIMULATED_STATE", str(path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return path


def on(state, pid: int, memory_mib: int) -> None:
    process = {"pid": pid, "user": "ben", "name": "python", "memory_mib": memory_mib}
    state.write_text(json.dumps({"cuda:0": {"processes": [process], "memory_used_mib": memory_mib}}))


def foreign_pids(host: HostView) -> list[int]:
    return [process.pid for process in host.devices({})[0].foreign]


def take(pid: int):
    holder = Holder("r", "n", "a@b", "cuda:0", "GPU-simulated-0", "training", -1, pid, time.time(), None)
    return acquire("GPU-simulated-0", "training", 1, holder)


def test_the_limit_is_the_queues_and_the_hosts_own_queue_goes_first(state):
    host = HostView("boxb", get_probe())
    assert host.limit("cuda:0", "inference", {}) == 3
    queues = {"cuda:0.training": QueueState("cuda:0.training", 2, False)}
    assert host.limit("cuda:0", "training", queues) == 2
    queues["boxb.cuda:0.training"] = QueueState("boxb.cuda:0.training", 0, False)
    assert host.limit("cuda:0", "training", queues) == 0


def test_a_process_of_this_system_makes_the_gpu_foreign(state):
    on(state, 1, 900)
    assert foreign_pids(HostView("boxa", get_probe())) == [1]


def test_the_holders_own_process_is_not_foreign(state):
    on(state, os.getpid(), 900)
    with take(os.getpid()):
        assert foreign_pids(HostView("boxa", get_probe())) == []


@pytest.mark.parametrize(("memory_mib", "found"), [(400, []), (9000, [NOBODY])])
def test_an_unknown_process_counts_by_its_memory_and_is_told_of_once(state, caplog, memory_mib, found):
    on(state, NOBODY, memory_mib)
    host = HostView("boxa", get_probe())
    assert foreign_pids(host) == found
    assert foreign_pids(host) == found
    assert caplog.text.count("as in a container") == 1


def test_an_unknown_process_beside_a_run_is_taken_for_the_runs_own(state):
    on(state, NOBODY, 9000)
    with take(os.getpid()):
        assert foreign_pids(HostView("boxa", get_probe())) == []


def test_an_intruder_is_named_with_the_runs_epoch(state, monkeypatch):
    host = HostView("boxa", get_probe())
    with take(os.getpid()) as lease:
        from gpu_pools.lease import Progress

        lease.record(progress=Progress(7, 30, 60.0, time.time()))
        on(state, 1, 900)
        assert host.intruders() == {"r": [("1 (python) of ben", ", epoch 7")]}


def test_only_visible_gpus_are_served(state, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert HostView("boxa", get_probe()).tags == ["cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("name", "mine"), [("cuda:0.training", True), ("boxa.cpu.training", True), ("boxb.cpu.training", False)]
)
def test_queues_without_a_host_and_with_this_one_are_served(state, name, mine):
    assert HostView("boxa", get_probe()).serves(parse_queue(name)) is mine


@pytest.mark.parametrize(("asked", "priority"), [(1, 1), (10, 10), (0, 5), (11, 5), ("2", 5), (None, 5)])
def test_a_priority_out_of_bounds_is_the_default(state, asked, priority):
    run = Run("r", "n", "cuda.training", None, "SCHEDULED", "Scheduled", "", 0.0, {"priority": asked}, "")
    assert HostView("boxa", get_probe()).asks(run, parse_queue("cuda.training")).priority == priority
