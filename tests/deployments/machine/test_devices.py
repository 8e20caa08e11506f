"""What people read of a device: what it is, who has it and how far he is, what waits, and what is no run of ours."""

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from deployments.machine.devices import device_views, lines
from deployments.runs.prefect_http import QueueCount
from gpu_pools.bookings.booking import Booking
from gpu_pools.names import host_name
from gpu_pools.slots.lease import Holder, SlotProgress, acquire


def holder(**changes):
    since = time.mktime((2026, 11, 23, 14, 2, 0, 0, 0, -1))
    fields = {
        "run_id": "r1",
        "run_name": "rfuav-resnet18",
        "owner": "anna@boxa",
        "device": "cuda:0",
        "uuid": "GPU-simulated-0",
        "kind": "training",
        "number": 0,
        "pid": os.getpid(),
        "since": since,
        "progress": None,
    }
    return Holder(**fields | changes)


def count(queue, waiting):
    return QueueCount(queue, None, paused=False, waiting=waiting, running=0)


@pytest.fixture(autouse=True)
def two_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setenv("TRAINYARD_SIMULATED_STATE", str(tmp_path / "gpus.json"))
    foreign = {"pid": 4242, "user": "ben", "name": "python", "memory_mib": 900}
    own = {"pid": os.getpid(), "user": "anna", "name": "python", "memory_mib": 500}
    state = {"processes": [foreign, own], "memory_used_mib": 1400, "utilisation_percent": 50}
    (tmp_path / "gpus.json").write_text(json.dumps({"cuda:0": state}))


def test_a_device_in_use_says_by_whom_and_what_waits():
    counts = [count("cuda:0.training", 2), count(f"{host_name()}.cuda:0.training", 1), count("cuda.inference", 4)]
    lease = acquire("GPU-simulated-0", "training", 1, holder(since=time.time()))
    assert lease is not None
    with lease:
        lease.record(progress=SlotProgress(3, 30, 1500.0, time.time()))
        shown = list(lines(device_views(counts)))
    now = time.strftime("%H:%M", time.localtime(lease.holder.since))
    assert "\n".join(shown).splitlines() == [
        "cuda    any GPU",
        "        waits   4 inference",
        "cuda:0  simulated GPU 0, compute 0.0, GPU-simulated-0",
        "        memory  24576 MiB: 1400 used, 23176 free; utilisation 50 %",
        f"        runs    training: rfuav-resnet18 of anna@boxa since {now}, epoch 3 of 30, about 25 min more",
        "        waits   3 training",
        "        others  process 4242 (python) of ben, 900 MiB: no run of Trainyard",
        "cuda:1  simulated GPU 1, compute 0.0, GPU-simulated-1",
        "        memory  24576 MiB: 0 used, 24576 free; utilisation 0 %",
        "cpu     CPU",
    ]


def test_queues_of_other_hosts_and_of_somebodys_own_making_do_not_count():
    views = device_views([count("elsewhere.cpu.training", 5), count("default", 6), count("cpu.training", 1)])
    assert {view.tag: dict(view.waiting) for view in views}["cpu"] == {"training": 1}


def test_json_has_all_that_people_read():
    view = next(view for view in device_views([count("cuda:0.training", 2)]) if view.tag == "cuda:0")
    shown = json.loads(json.dumps(view.as_json()))
    assert (shown["device"], shown["uuid"], shown["compute_capability"]) == ("cuda:0", "GPU-simulated-0", "0.0")
    assert (shown["memory_total_mib"], shown["memory_used_mib"], shown["utilisation_percent"]) == (24576, 1400, 50)
    assert shown["waiting"] == {"training": 2}
    assert shown["runs"] == []
    assert 4242 in {process["pid"] for process in shown["others"]}


def test_a_machine_without_a_gpu_has_its_cpu(monkeypatch):
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "0")
    assert list(lines(device_views([]))) == ["cpu     CPU"]


def test_the_next_booking_of_a_device_is_shown():
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    now = Booking("a1", host_name(), "cuda:1", "anna", begin, 7200.0)
    elsewhere = replace(now, host="boxb", device="cuda:0")
    views = device_views([], [time for booking in (elsewhere, now) for time in booking.times(0.0, 1e11)])
    (shown,) = [line for line in lines(views) if "booked" in line]
    assert shown.startswith("        booked  by anna until ")
    booked = {view.tag: view.as_json()["booking"] for view in views}
    assert booked["cuda:0"] is None
    assert (booked["cuda:1"]["id"], booked["cuda:1"]["begin"], booked["cuda:1"]["now"]) == (
        "a1",
        begin.isoformat(),
        True,
    )
