"""No process of a run is missed, however it left the tree."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from gpu_pools.process import run_process
from tasks.base.processes import identity

# A child that is forked, one that runs a command of its own; both leave session and parent.
LEAVING = """
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
subprocess.Popen(["sleep", "60"], start_new_session=True)
print("ready", flush=True)
{then}
"""


def start(tmp_path, then):
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVING.format(then=then)],
        env={**os.environ, run_process.MARK: "run-1"},
        pass_fds=(fd,),
        stdout=subprocess.PIPE,
    )
    os.close(fd)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    return process


@pytest.mark.parametrize("then", ["time.sleep(60)", "os._exit(0)"])
def test_kill_reaches_children_that_left_the_tree(tmp_path, then):
    process = start(tmp_path, then)
    known = identity(process.pid)
    if "exit" in then:
        process.wait()
    lock = tmp_path / "lock"
    assert len(run_process.members("run-1", process.pid, known, lock)) >= (2 if "exit" in then else 3)
    run_process.kill("run-1", process.pid, known, lock)
    process.wait()
    deadline = time.monotonic() + 5
    while run_process.members("run-1", process.pid, known, lock):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_another_process_with_the_same_number_is_not_the_run():
    known = identity(os.getpid())
    assert known is not None
    assert run_process.alive(os.getpid(), known)
    assert not run_process.alive(os.getpid(), f"{known}0")
    assert not run_process.alive(os.getpid(), None)
