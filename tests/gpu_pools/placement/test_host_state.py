"""What a host offers: limits as set in Prefect, devices without those in use by others, the hosts there are."""

import json
import os
import time

import pytest

from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Refuse, Start, place
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import parse_queue
from gpu_pools.prefect_client import QueueState, Run
from gpu_pools.slots.lease import Holder, acquire
from tasks.base.errors import GpuError

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


def foreign_pids(host: HostState) -> list[int]:
    return [process.pid for process in host.devices({})[0].foreign]


def asks(queue: str, n_devices: int = 1) -> Waiting:
    return Waiting("r", "n", parse_queue(queue), 5, 0.0, "a@b", n_devices=n_devices)


def take(pid: int):
    holder = Holder("r", "n", "a@b", "cuda:0", "GPU-simulated-0", "training", -1, pid, time.time(), None)
    return acquire("GPU-simulated-0", "training", 1, holder)


def test_the_limit_is_the_queues_and_the_hosts_own_queue_goes_first(state):
    host = HostState("boxb", get_probe())
    assert host.limit("cuda:0", "inference", {}) == 3
    queues = {"cuda:0.training": QueueState("cuda:0.training", 2, False)}
    assert host.limit("cuda:0", "training", queues) == 2
    queues["boxb.cuda:0.training"] = QueueState("boxb.cuda:0.training", 0, False)
    assert host.limit("cuda:0", "training", queues) == 0


def test_a_process_of_this_system_makes_the_gpu_foreign(state):
    on(state, 1, 900)
    assert foreign_pids(HostState("boxa", get_probe())) == [1]


def test_the_holders_own_process_is_not_foreign(state):
    on(state, os.getpid(), 900)
    with take(os.getpid()):
        assert foreign_pids(HostState("boxa", get_probe())) == []


@pytest.mark.parametrize(("memory_mib", "found"), [(400, []), (9000, [NOBODY])])
def test_an_unknown_process_counts_by_its_memory_and_is_told_of_once(state, caplog, memory_mib, found):
    on(state, NOBODY, memory_mib)
    host = HostState("boxa", get_probe())
    assert foreign_pids(host) == found
    assert foreign_pids(host) == found
    assert caplog.text.count("as in a container") == 1


def test_an_unknown_process_beside_a_run_is_taken_for_the_runs_own(state):
    on(state, NOBODY, 9000)
    with take(os.getpid()):
        assert foreign_pids(HostState("boxa", get_probe())) == []


def test_an_intruder_is_named_with_the_runs_epoch(state, monkeypatch):
    host = HostState("boxa", get_probe())
    with take(os.getpid()) as lease:
        from gpu_pools.slots.lease import SlotProgress

        lease.record(progress=SlotProgress(7, 30, 60.0, time.time()))
        on(state, 1, 900)
        assert host.intruders() == {"r": [("1 (python) of ben", ", epoch 7")]}


def test_only_visible_gpus_are_served(state, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert HostState("boxa", get_probe()).tags == ["cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("name", "mine"), [("cuda:0.training", True), ("boxa.cpu.training", True), ("boxb.cpu.training", False)]
)
def test_queues_without_a_host_and_with_this_one_are_served(state, name, mine):
    assert HostState("boxa", get_probe()).serves(parse_queue(name)) is mine


@pytest.mark.parametrize(("asked", "priority"), [(1, 1), (10, 10), (0, 5), (11, 5), ("2", 5), (None, 5)])
def test_a_priority_out_of_bounds_is_the_default(state, asked, priority):
    run = Run("r", "n", "cuda.training", None, "SCHEDULED", "Scheduled", "", 0.0, {"priority": asked}, "")
    assert HostState("boxa", get_probe()).asks(run, parse_queue("cuda.training")).priority == priority


class Hosts:
    """A server that knows workers, and a pool."""

    def __init__(self, workers, pool=None, under_way=()):
        self.known, self.found, self.under_way = workers, pool, under_way

    def workers(self):
        return self.known

    def pool(self):
        return self.found

    def in_state(self, *types):
        return [Run(str(i), "n", queue, None, "RUNNING", "", "", 0.0, {}, "") for i, queue in enumerate(self.under_way)]


@pytest.mark.parametrize(
    ("asked", "workers", "answer"),
    [
        ("cuda:7.training", {"boxb": False}, None),  # nobody has it, whoever is away
        ("boxa.cuda:7.training", {"boxb": True}, None),
        ("cuda:1.training", {"boxb": True}, ""),
        ("cuda:1.training", {"boxb:2": True, "boxb": False}, ""),
        ("cuda:1.training", {"boxb": False}, "cuda:1 is on boxb, where no worker is online"),
        ("cuda:1.training", {}, None),  # left behind by a host that was never here
        ("cuda.training", {"boxb": False}, "cuda is on boxb, where no worker is online"),
        ("cuda.training", {"boxc": True}, None),
        ("cuda:1.inference", {"boxb": True}, None),
    ],
)
def test_a_device_that_this_host_lacks_may_be_elsewhere(state, asked, workers, answer):
    queues = {name: QueueState(name, None, False) for name in ("cuda:7.training", "boxb.cuda:1.training", "default")}
    assert HostState("boxa", get_probe()).elsewhere(asks(asked), queues, Hosts(workers)) == answer


def test_a_host_without_a_worker_is_told_from_one_that_nobody_knows(state):
    host, server = HostState("boxa", get_probe()), Hosts({"boxb": False, "boxc": True})
    assert host.known_host(parse_queue("boxc.cpu.training"), server) == (True, "")
    known, text = host.known_host(parse_queue("boxb.cuda:1.training"), server)
    assert (known, text) == (True, "boxb/cuda:1 waits for a worker on boxb: none is online")
    known, text = host.known_host(parse_queue("boxd.cuda:1.training"), server)
    assert (known, text) == (False, "found no host 'boxd' for device boxd/cuda:1; have: boxa, boxb, boxc")


@pytest.mark.parametrize(
    ("limit", "paused", "room", "text"),
    [
        (None, False, float("inf"), ""),
        (3, False, 1, "the limit of work pool gpu is 3 runs at once"),
        (2, False, 0, "the limit of work pool gpu is 2 runs at once"),
        (None, True, 0, "work pool gpu is paused"),
    ],
)
def test_the_pools_own_limit_counts_what_computes(state, limit, paused, room, text):
    server = Hosts({}, QueueState("gpu", limit, paused), ["cuda:0.training", "cpu.pipeline", "cpu.preparation"])
    found = HostState("boxa", get_probe()).pool_room(server)
    assert (found.left, found.reason) == (room, text)
    training, pipeline = parse_queue("cuda.training"), parse_queue("cpu.pipeline")
    assert [found.take(training) for _ in range(3)] == [n < room for n in range(3)]
    assert found.take(pipeline) is not paused


def test_a_gpu_that_is_lost_takes_no_runs_and_says_so(state, monkeypatch):
    probe = get_probe()
    host, read = HostState("boxa", probe), probe.device

    def lost(uuid):
        if uuid == "GPU-simulated-1":
            raise GpuError("cannot read GPU 1: it is lost")
        return read(uuid)

    monkeypatch.setattr(probe, "device", lost)
    devices = host.devices({})
    assert [device.fault for device in devices] == [None, "cannot read GPU 1: it is lost", None]
    with take(os.getpid()):
        assert host.intruders() == {"r": []}
    asked = Run("r", "n", "cuda:1.training", None, "SCHEDULED", "Scheduled", "", 0.0, {}, "")
    (decision,) = place([host.asks(asked, parse_queue(asked.queue))], devices, host="boxa", now=1.0)
    assert decision.reason == "cuda:1 does not answer: cannot read GPU 1: it is lost"


def test_a_run_takes_a_slot_on_each_of_its_devices_in_their_order_with_its_time_limit(state):
    host = HostState("boxa", get_probe(), clock=lambda: 1000.0)
    wide = Waiting("r", "n", parse_queue("cuda.training"), 5, 0.0, "a@b", limit_s=90.0, spent_s=30.0, n_devices=2)
    (decision,) = place([wide], host.devices({}), host="boxa", now=1000.0)
    assert decision == Start("r", ("GPU-simulated-0", "GPU-simulated-1"))
    with host.take(wide, decision.uuids[::-1], {}) as lease:
        assert (lease.tag, [holder.ends_by for holder in lease.holders]) == ("cuda:0,cuda:1", [1060.0, 1060.0])
        assert [len(device.holders) for device in host.devices({})] == [1, 1, 0]
        assert host.take(asks("cuda:1.training"), ["GPU-simulated-1"], {}) is None
    assert not any(device.holders for device in host.devices({}))


def test_a_run_on_several_gpus_is_told_of_strangers_on_each_of_them(state):
    process = {"user": "ben", "name": "python", "memory_mib": 900}
    busy = {f"cuda:{n}": {"processes": [{"pid": pid, **process}]} for n, pid in enumerate([1, os.getppid()])}
    host = HostState("boxa", get_probe())
    with host.take(asks("cuda.training", 2), ["GPU-simulated-0", "GPU-simulated-1"], {}):
        state.write_text(json.dumps(busy))
        assert [who.split()[0] for who, _ in host.intruders()["r"]] == ["1", str(os.getppid())]


@pytest.mark.parametrize(
    ("parameters", "queue", "n_devices"),
    [
        ({"train": {"n_devices": 2}, "dataset": "/data"}, "cuda.training", 2),
        ({"train": {"device": "cuda"}}, "cuda.training", 1),
        ({"train": {"n_devices": 2}}, "cpu.pipeline", 1),  # waits for its stages
        ({"train": {"n_devices": True}, "other": {"n_devices": -4}}, "cuda.training", 1),
    ],
)
def test_the_parameters_of_a_run_say_how_many_devices_it_needs(state, parameters, queue, n_devices):
    run = Run("r", "n", queue, None, "SCHEDULED", "", "", 0.0, {}, "", parameters=parameters)
    assert HostState("boxa", get_probe()).asks(run, parse_queue(queue)).n_devices == n_devices


def test_a_run_that_needs_more_devices_than_this_host_has_is_left_to_one_that_has_as_many(state):
    host, own = HostState("boxa", get_probe()), asks("cuda.training", 3)
    (decision,) = place([own], host.devices({}), host="boxa", now=0.0)
    assert decision == Refuse("r", "found 2 GPUs on boxa, need 3 for n_devices 3")
    queues = {name: QueueState(name, None, False) for name in (f"boxb.cuda:{n}.training" for n in range(3))}
    assert host.elsewhere(own, queues, Hosts({"boxb": True})) == ""
    assert host.elsewhere(asks("cuda.training", 4), queues, Hosts({"boxb": True})) is None
