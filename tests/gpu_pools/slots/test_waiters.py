"""Who waits is known to all of the host while he lives, and to nobody afterwards."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Queue
from gpu_pools.slots import waiters
from gpu_pools.slots.waiters import Announcement, waiting_elsewhere

RUN = Waiting(
    *("a", "mine", Queue("cuda:0", "training"), 2, 1000.0, "anna@boxa"),
    memory_mib=14_000,
    memory_source="measured in 2 runs",
    recent_use_s=3600.0,
    served=900.0,
    n_devices=4,
)
BOTH = ("terminal", "worker")
WAITS = """
import sys, time
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Queue
from gpu_pools.slots.waiters import Announcement
Announcement("terminal").say([Waiting("dead", "its", Queue("cpu", "training"), 5, 1.0, "ben@boxa")])
print("waits", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch) -> Path:
    """The folder of the locks."""
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    return tmp_path / "locks"


def test_what_waits_is_known_until_it_is_taken_back(locks):
    with Announcement("terminal") as notice:
        assert waiting_elsewhere(BOTH, ()) == []
        notice.say([RUN])
        notice.say([RUN, other := replace(RUN, run_id="b", priority=7)])
        assert waiting_elsewhere(BOTH, ()) == [RUN, other]
        assert waiting_elsewhere(BOTH, {"a"}) == [other]
        assert waiting_elsewhere(("worker",), ()) == []
        notice.say([])
        assert waiting_elsewhere(BOTH, ()) == []
        notice.say([RUN])
    assert list(locks.iterdir()) == []


def test_a_killed_process_waits_no_more_and_leaves_nothing(locks):
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert [run.run_name for run in waiting_elsewhere(BOTH, ())] == ["its"]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert waiting_elsewhere(BOTH, ()) == []
    assert list(locks.iterdir()) == []


def test_a_reader_misses_nobody_while_the_text_changes():
    end, seen = time.monotonic() + 1.0, set[int]()

    def read():
        while time.monotonic() < end:
            seen.add(len(waiting_elsewhere(BOTH, ())))

    with Announcement("worker") as notice:
        notice.say([RUN])
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        while time.monotonic() < end:
            notice.say([replace(RUN, since=time.time())])
        for reader in readers:
            reader.join()
    assert seen == {1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[[[[",
        b'{"run_id": 3}',
        b'[{"run_id": "x"}]',
        json.dumps([waiters._as_json(RUN) | {"queue": "nonsense"}]).encode(),
        json.dumps([waiters._as_json(RUN) | {"since": "soon"}]).encode(),
        b"[" * 100_000,
    ],
)
def test_a_text_that_makes_no_sense_names_nobody(locks, content):
    with Announcement("terminal") as notice:
        notice.say([RUN])
        (path,) = locks.glob("*.terminal")
        path.write_bytes(content)
        assert waiting_elsewhere(BOTH, ()) == []


def test_numbers_that_cannot_be_are_bounded_and_names_are_one_line(locks):
    wild = json.dumps([waiters._as_json(RUN) | {"priority": -5, "since": 1e300, "run_name": "a\nb"}])
    with Announcement("terminal") as notice:
        notice.say([RUN])
        (path,) = locks.glob("*.terminal")
        path.write_text(wild)
        (found,) = waiting_elsewhere(BOTH, ())
    assert (found.priority, found.since, found.run_name) == (1, 1e11, "a b")


def test_what_is_no_file_is_passed_over(locks):
    waiting_elsewhere(BOTH, ())
    os.mkfifo(locks / "pipe.terminal")
    (locks / "link.terminal").symlink_to("/dev/zero")
    (locks / "folder.worker").mkdir()
    assert waiting_elsewhere(BOTH, ()) == []
