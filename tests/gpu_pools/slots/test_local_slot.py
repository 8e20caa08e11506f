"""A run in a person's own process takes the same slots as the yard's."""

import os
import time
from dataclasses import replace

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from prefect.testing.utilities import prefect_test_harness

from gpu_pools.placement import order
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Queue
from gpu_pools.slots import local_slot, turns
from gpu_pools.slots.lease import Holder, acquire, holders, run_locks
from gpu_pools.slots.local_slot import on_device, refuse_if_taken
from gpu_pools.slots.waiters import Announcement
from tasks.base.errors import GpuBusyError, GpuError

BEN = Waiting("ben", "big", Queue("cuda:0", "training"), 5, 0.0, "ben@boxa")


@pytest.fixture(scope="module", autouse=True)
def _api():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def _two_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def take(uuid: str):
    tag = f"cuda:{uuid[-1]}"
    holder = Holder("r", "other", "anna@boxa", tag, uuid, "training", -1, os.getpid(), time.time(), None)
    lease = acquire(uuid, "training", 1, holder)
    assert lease is not None
    return lease


@flow
def sees(device: str, hold_s: float = 0.0) -> tuple[str, int]:
    with on_device(device, "training"):
        time.sleep(hold_s)
        return os.environ["CUDA_VISIBLE_DEVICES"], len(holders())


def test_the_block_sees_one_device_and_holds_its_slot():
    assert sees("cuda:1") == ("GPU-simulated-1", 1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert holders() == []


def test_cuda_means_the_gpu_that_is_free():
    with take("GPU-simulated-0"):
        assert sees("cuda")[0] == "GPU-simulated-1"


def test_a_taken_device_is_refused_with_the_holders_name(monkeypatch):
    monkeypatch.setenv("TRAINYARD_WHEN_BUSY", "refuse")
    with take("GPU-simulated-0"), pytest.raises(GpuBusyError, match="cuda:0 is training other of anna@boxa since"):
        sees("cuda:0")


@flow
def sees_several(n_devices: int) -> tuple[str, str, int, str]:
    with on_device("cuda", "training", n_devices) as slot:
        on, same = os.environ["TRAINYARD_ON"], "its locks" if run_locks() == slot.locks else "others"
        return os.environ["CUDA_VISIBLE_DEVICES"], on, len(holders()), same


def test_the_block_sees_several_devices_and_holds_a_slot_on_each():
    assert sees_several(2) == ("GPU-simulated-0,GPU-simulated-1", "cuda:0,cuda:1", 2, "its locks")
    assert holders() == []
    with pytest.raises(GpuError, match="found 2 GPUs on .*, need 3 for n_devices 3"):
        sees_several(3)


def test_it_waits_for_the_last_of_several_and_says_so(monkeypatch):
    lease, said = take("GPU-simulated-1"), []

    def pause(_):
        said.append(state_of_newest().message)
        lease.release()

    monkeypatch.setattr(local_slot, "pause", pause)
    assert sees_several(2)[2] == 2
    assert said[0].startswith("gathers 2 GPUs: cuda:0 is kept for it; cuda:1 is training other of anna@boxa since")


@flow
def known_until(lasts_s: float | None) -> float | None:
    with on_device("cuda:0", "training", lasts_s=lasts_s):
        (found,) = holders()
        return found.ends_by


def test_who_says_how_long_the_block_lasts_at_the_most_has_a_known_end(monkeypatch):
    assert known_until(None) is None
    assert known_until(600.0) == pytest.approx(time.time() + 600, abs=20)
    monkeypatch.setenv("TRAINYARD_DEADLINE", f"{time.time() + 60:.0f}")
    assert known_until(600.0) == pytest.approx(time.time() + 60, abs=20)


@flow
def prepares(device: str) -> str:
    refuse_if_taken(device, "training")
    return "prepared"


def test_a_taken_device_is_refused_before_anything_is_prepared(monkeypatch):
    with take("GPU-simulated-0"):
        assert prepares("cuda:0") == "prepared"  # who may wait is not refused
        monkeypatch.setenv("TRAINYARD_WHEN_BUSY", "refuse")
        with pytest.raises(GpuBusyError, match="cuda:0 is training other of anna@boxa since"):
            prepares("cuda:0")
        assert prepares("cuda:1") == "prepared"
        assert prepares("cuda") == "prepared"
        with pytest.raises(GpuError, match="found no device 'cuda:7'"):
            prepares("cuda:7")
        monkeypatch.setenv("TRAINYARD_LEASE", "3")  # the worker has looked already
        assert prepares("cuda:0") == "prepared"
    assert prepares("cuda:0") == "prepared"


def test_a_run_waits_until_the_slot_is_free_and_says_for_whom(monkeypatch):
    lease, said = take("GPU-simulated-0"), []

    def pause(_):
        said.append(state_of_newest())
        lease.release()

    monkeypatch.setattr(local_slot, "pause", pause)
    assert sees("cuda:0")[0] == "GPU-simulated-0"
    assert (said[0].type, said[0].name) == ("RUNNING", "Waiting")
    assert "cuda:0 is training other of anna@boxa" in said[0].message


@pytest.fixture
def ben():
    """Another terminal that waits."""
    with Announcement("terminal") as notice:
        # Now, not when this file was read: the other tests may have taken so long that the waiting counts.
        yield lambda **but: notice.say([replace(BEN, **{"since": time.time(), **but})])


def state_of_newest():
    """Return the state of the run that began last."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    return run.state


def test_a_free_slot_is_left_to_who_is_first(monkeypatch, ben):
    said = []

    def pause(_):
        said.append(state_of_newest())
        ben(priority=9)

    monkeypatch.setattr(local_slot, "pause", pause)
    ben(priority=2)
    assert sees("cuda:0")[0] == "GPU-simulated-0"
    assert said[0].message == "cuda:0 is training big of ben@boxa, which starts now"


def test_a_priority_of_ones_own_goes_before_and_a_slot_nobody_takes_is_taken(monkeypatch, ben):
    pauses = []
    monkeypatch.setattr(local_slot, "pause", lambda _: pauses.append(1))
    ben(priority=2)
    monkeypatch.setenv("TRAINYARD_PRIORITY", "1")
    assert sees("cuda:0")[0] == "GPU-simulated-0"
    assert pauses == []
    monkeypatch.delenv("TRAINYARD_PRIORITY")
    monkeypatch.setattr(turns, "PATIENCE_S", 0.2)  # it is stopped, and takes nothing
    assert sees("cuda:0")[0] == "GPU-simulated-0"
    assert pauses


def test_who_had_less_lately_goes_before_and_a_terminal_asks_prefect_what_its_own_person_had(monkeypatch, ben):
    monkeypatch.setenv("TRAINYARD_OWNER", "anna@boxa")
    said = []

    def pause(_):
        said.append(state_of_newest())
        ben(recent_use_s=3600.0)

    monkeypatch.setattr(local_slot, "pause", pause)
    monkeypatch.setattr(order, "_USE_STEP_S", 0.2)
    ben(recent_use_s=3600.0)
    assert sees("cuda:0", hold_s=0.5)[0] == "GPU-simulated-0"
    assert said == []
    ben()
    assert sees("cuda:0")[0] == "GPU-simulated-0"
    assert said[0].message == "cuda:0 is training big of ben@boxa, which starts now"


def test_the_sentence_says_how_many_are_before(monkeypatch, ben):
    lease, said = take("GPU-simulated-0"), []

    def pause(_):
        said.append(state_of_newest())
        lease.release()
        ben(priority=9)

    monkeypatch.setattr(local_slot, "pause", pause)
    ben(priority=2)
    sees("cuda:0")
    assert said[0].message.endswith("; 1 run before this one")


def test_a_device_that_is_not_here_is_an_error():
    with pytest.raises(GpuError, match="cuda:7.*have: cuda:0"):
        sees("cuda:7")


def test_a_run_of_the_worker_has_its_slot_already(monkeypatch):
    monkeypatch.setenv("TRAINYARD_LEASE", "somewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-simulated-1")
    assert sees("cuda") == ("GPU-simulated-1", 0)
