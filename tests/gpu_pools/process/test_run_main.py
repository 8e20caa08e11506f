"""The process of a run at its two ends: what must not be missing though nothing is waited for."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from prefect import flow_engine

from gpu_pools import prefect_states

LEAVES = """
import atexit, multiprocessing, os, sys, tempfile, threading, time
from gpu_pools.process.run_main import leave

class Slow:
    def __del__(self):
        print("taken apart")

def sleep():
    time.sleep(600)

slow = Slow()
folder = tempfile.TemporaryDirectory()
child = multiprocessing.get_context("fork").Process(target=sleep, daemon=True)
child.start()
atexit.register(print, "last words")
threading.Thread(target=lambda: (time.sleep(0.3), print("a thread has ended"))).start()
print(child.pid, folder.name)
leave()
"""


def test_a_process_that_leaves_does_all_but_take_itself_apart(tmp_path):
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    about, *lines = done.stdout.splitlines()
    assert lines == ["a thread has ended", "last words"]
    pid, folder = about.split()
    assert subprocess.run(["ls", f"/proc/{pid}", folder], capture_output=True).returncode == 2  # neither is there


@pytest.fixture
def suspension(monkeypatch):
    """The watch for a suspension, as one that takes an hour to begin; what happened to it."""
    seen = []

    @contextmanager
    def watch(run_id):
        seen.append(run_id)
        time.sleep(3600)
        yield

    monkeypatch.setattr(flow_engine, "observe_flow_run_suspension", watch)
    monkeypatch.setattr(prefect_states, "_suspension", watch)
    monkeypatch.setattr(prefect_states, "_SUSPENSION_AFTER_S", 0.2)
    prefect_states.watch_for_suspension_later()
    return seen


def test_a_run_waits_neither_for_the_watch_for_suspension_nor_for_its_end(suspension):
    with flow_engine.observe_flow_run_suspension("run"):
        assert suspension == []
        while not suspension:
            time.sleep(0.01)
    assert suspension == ["run"]


def test_a_run_that_is_short_is_not_watched_at_all(suspension):
    with flow_engine.observe_flow_run_suspension("run"):
        pass
    time.sleep(0.5)
    assert suspension == []
