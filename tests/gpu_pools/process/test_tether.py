"""A command ends with its parent, however that ends, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tasks.base.startup import module_command

FAMILY = """
import os, subprocess, sys, time
child = [sys.executable, "-c", "import time; time.sleep(600)"]
a = subprocess.Popen(child)
b = subprocess.Popen(child, start_new_session=True)
middle = '''import subprocess, sys
print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=subprocess.DEVNULL).pid, flush=True)'''
c = subprocess.run([sys.executable, "-c", middle, *child], stdout=subprocess.PIPE, text=True)
print(a.pid, b.pid, c.stdout.strip(), os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:])
time.sleep(600)
"""


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(lives, pids))


@pytest.mark.parametrize("how", ["parent killed", "tether ended", "command killed"])
def test_nothing_is_left_of_a_family(how):
    tether = module_command("gpu_pools.process.tether", sys.executable, "-c", FAMILY)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *tether], stdout=subprocess.PIPE, text=True)
    *children, command = map(int, parent.stdout.readline().split())
    keeper = psutil.Process(parent.pid).children()[0].pid
    assert all(map(lives, [*children, command]))
    victim, number = {
        "parent killed": (parent.pid, signal.SIGKILL),
        "tether ended": (keeper, signal.SIGTERM),
        "command killed": (command, signal.SIGKILL),
    }[how]
    os.kill(victim, number)
    assert gone([*children, command, keeper])
    parent.kill()
    parent.wait()
    parent.stdout.close()


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_exit_code_is_that_of_the_command(code, expected):
    done = subprocess.run(module_command("gpu_pools.process.tether", sys.executable, "-c", code), timeout=60)
    assert done.returncode == expected
