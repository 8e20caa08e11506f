"""Ends processes of tests, and waits for what they do."""

import os
import signal
import sys
import time

import psutil

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def kill_tree(pid):
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        kill(process.pid)


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def until(condition, wait_s=10.0):
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
