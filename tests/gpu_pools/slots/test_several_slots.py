"""Runs on several devices: all slots or none, by kernel locks of real processes that are killed."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from gpu_pools.slots import slot_files
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.lease import Holder, acquire, acquire_all, holders, own_holders, report_progress, run_locks
from gpu_pools.slots.slot_files import SlotProgress
from tasks.base.errors import StorageError
from tests.gpu_pools.slots.killing import SLEEP, kill, until

pytestmark = pytest.mark.usefixtures("folder")

ANNA = Holder("r1", "rfuav", "anna@boxa", "cuda:0", "GPU-0", "training", -1, os.getpid(), 1700000000.0, None)

# Takes the slots of two GPUs for as long as it lives, one try after the other, as fast as it can.
TAKER = """
import os, sys, time
from gpu_pools.slots.lease import Holder, acquire_all
run_id, tags = sys.argv[1], sys.argv[2:]
wanted = [
    (1, Holder(run_id, run_id, "o", tag, f"GPU-{tag[5:]}", "training", -1, os.getpid(), 1.0, None)) for tag in tags
]
n = 0
print("ready", flush=True)
end = time.monotonic() + 5
while time.monotonic() < end and n < 50:
    lease = acquire_all(wanted)
    if lease is not None:
        n += 1
        lease.release()
print(n, flush=True)
"""

# A run's process: starts a child with the locks of its slots, says its pid, and stays.
PARENT = """
import subprocess, sys, time
from gpu_pools.slots.lease import run_locks
child = subprocess.Popen(sys.argv[1:], pass_fds=run_locks(), stdout=subprocess.DEVNULL)
print(len(run_locks()), child.pid, flush=True)
time.sleep(60)
"""


def on(*indices, holder=ANNA, limit=1):
    return [(limit, replace(holder, device=f"cuda:{n}", uuid=f"GPU-{n}")) for n in indices]


def held():
    return [(found.uuid, found.run_id) for found in holders()]


def test_a_run_has_all_its_slots_in_the_order_it_asked_for_them():
    with acquire_all(on(2, 0)) as found:
        assert (found.tag, len(found.run_fds)) == ("cuda:2,cuda:0", 2)
        assert held() == [("GPU-0", "r1"), ("GPU-2", "r1")]
    assert held() == []


def test_where_one_is_taken_it_has_none():
    with acquire("GPU-1", "training", 1, replace(ANNA, run_id="other")):
        assert acquire_all(on(0, 1, 2)) is None
        assert held() == [("GPU-1", "other")]


def test_what_was_taken_is_let_go_of_where_a_lock_cannot_be_used(folder):
    acquire("GPU-0", "training", 1, ANNA).release()
    (folder / "GPU-1.training.guard").mkdir()
    with pytest.raises(StorageError):
        acquire_all(on(0, 1))
    assert held() == []


def test_progress_and_process_are_in_the_record_of_each_slot(monkeypatch):
    with acquire_all(on(0, 1)) as found:
        found.record(pid=7)
        for name, value in found.env.items():
            monkeypatch.setenv(name, value)
        report_progress(3, 10, 60.0)
        assert [(run.pid, run.progress.epoch, run.progress.remaining_s) for run in holders()] == [(7, 3, 60.0)] * 2
        assert [run.device for run in own_holders()] == ["cuda:0", "cuda:1"]
        found.record(progress=SlotProgress(4, 10, None, 1.0))
        assert [run.progress.epoch for run in own_holders()] == [4, 4]


def test_two_that_take_the_same_again_and_again_both_get_them(start):
    """In opposite orders: whoever took the first and waited for the second would wait for ever."""
    orders = (("a", "cuda:0", "cuda:1"), ("b", "cuda:1", "cuda:0"))
    takers = [start(sys.executable, "-c", TAKER, *order) for order in orders]
    for taker in takers:
        assert taker.stdout.readline() == "ready\n"
    assert all(int(taker.stdout.readline()) > 0 for taker in takers)
    acquire_all(on(0, 1)).release()


def test_whoever_is_killed_while_it_takes_them_leaves_none(start):
    for after_s in (0.0, 0.003, 0.01):
        taker = start(sys.executable, "-c", TAKER, "a", "cuda:0", "cuda:1", "cuda:2")
        taker.stdout.readline()
        time.sleep(after_s)
        taker.kill()
        taker.wait()
        assert held() == []
    acquire_all(on(0, 1, 2)).release()


@pytest.fixture
def parent(start):
    """Yield the process of a run on three GPUs, whose worker is gone, and the pid of its child."""
    found = acquire_all(on(0, 1, 2))
    env = {**os.environ, **found.env}
    process = start(sys.executable, "-c", PARENT, *SLEEP, env=env, pass_fds=found.run_fds)
    n_locks, child = map(int, process.stdout.readline().split())
    assert n_locks == 3
    found.record(pid=process.pid)
    found.hand_over()
    found.release()
    yield process, child
    kill(child)


def test_a_child_that_outlives_the_runs_process_keeps_all_its_slots(parent):
    process, child = parent
    process.kill()
    process.wait()
    assert [uuid for uuid, _ in held()] == ["GPU-0", "GPU-1", "GPU-2"]
    assert acquire_all(on(2)) is None
    kill(child)
    until(lambda: held() == [])
    acquire_all(on(0, 1, 2)).release()


def test_a_child_that_is_killed_takes_no_slot_with_it(parent):
    kill(parent[1])
    assert [uuid for uuid, _ in held()] == ["GPU-0", "GPU-1", "GPU-2"]


def test_a_process_without_a_slot_has_no_locks_to_pass_on(monkeypatch):
    assert run_locks() == ()
    found = acquire_all(on(0))
    monkeypatch.setenv("TRAINYARD_LEASE", found.env["TRAINYARD_LEASE"])
    assert run_locks() == found.run_fds
    found.release()
    assert run_locks() == ()


def test_those_who_only_look_at_the_slots_meanwhile_are_not_passed_on(monkeypatch):
    with acquire_all(on(0, 1)) as found:
        monkeypatch.setenv("TRAINYARD_LEASE", found.env["TRAINYARD_LEASE"])
        stop = threading.Event()

        def look():
            while not stop.is_set():
                holders()
                slot_files.write_progress(found.files[0], "r1", None)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            assert {run_locks() for _ in range(300)} == {found.run_fds}
        finally:
            stop.set()
            thread.join()


def test_the_slots_of_a_run_that_died_are_kept_and_go_to_its_next_process(start):
    found, kept = acquire_all(on(0, 1)), KeptSlots()
    run = start(*SLEEP, pass_fds=found.run_fds)
    found.hand_over()
    run.kill()
    run.wait()
    kept.keep("r1", ("GPU-0", "GPU-1"), found)
    assert acquire_all(on(1)) is None
    again = kept.take("r1", ["GPU-1", "GPU-0"])
    assert again is found
    assert len(again.run_fds) == 2
    again.release()
    assert held() == []


def test_kept_slots_are_let_go_of_where_the_run_starts_elsewhere_or_a_process_of_it_lives(start):
    kept = KeptSlots()
    kept.keep("r1", ("GPU-0", "GPU-1"), acquire_all(on(0, 1)))
    assert kept.take("r1", ["GPU-0", "GPU-2"]) is None
    assert held() == []
    found = acquire_all(on(0, 1))
    process = subprocess.Popen(SLEEP, pass_fds=found.run_fds[1:])
    found.hand_over()
    kept.keep("r1", ("GPU-0", "GPU-1"), found)
    assert kept.take("r1", ["GPU-0", "GPU-1"]) is None
    assert [uuid for uuid, _ in held()] == ["GPU-1"]
    process.kill()
    process.wait()
    assert held() == []
