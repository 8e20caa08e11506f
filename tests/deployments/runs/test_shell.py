"""A session at a terminal holds its slot until it ends, idles or its time is over; then nothing is left of it."""

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from gpu_pools.slots.lease import holders
from tests.deployments.homes import home_without_server

BIN = Path(sys.executable).parent
PROMPT = r"[#$] "
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(1)
    print("has saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("begins", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home without a server, on a host with two GPUs."""
    folder = tmp_path_factory.mktemp("shell")
    with home_without_server(folder, SHELL="/bin/bash", HOME=folder):  # no startup files of who runs the tests
        yield folder


class Terminal:
    """A terminal at which `yard shell` runs."""

    def __init__(self, folder, *words):
        self.ours, self.theirs = os.openpty()
        self.modes = termios.tcgetattr(self.theirs)
        self.seen = ""
        self.process = subprocess.Popen(
            [BIN / "yard", "shell", *words],
            cwd=folder,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def type(self, text):
        os.write(self.ours, text.encode())

    def until(self, pattern, seconds=90.0):
        """Read until what was printed since the last call has a pattern; return its match."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen, re.S)):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.2)[0]:
                self.seen += os.read(self.ours, 65536).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def end(self, seconds=60.0):
        """Return the exit code; what is printed meanwhile is kept."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.2)[0]:
                self.seen += os.read(self.ours, 65536).decode(errors="replace")
        return self.process.returncode

    def close(self):
        """Close it, as who closes a window."""
        os.close(self.theirs)
        os.close(self.ours)


def newest() -> dict[str, str]:
    done = subprocess.run([BIN / "yard", "runs", "--limit", "1", "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]


def gone(pid) -> bool:
    deadline = time.monotonic() + 20
    while (holders() or os.path.exists(f"/proc/{pid}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not holders() and not os.path.exists(f"/proc/{pid}")


def test_a_shell_has_its_slot_job_control_and_the_keyboard(home):
    terminal = Terminal(home, "--device", "cuda:1", "--for", "2h")
    terminal.until(PROMPT)
    assert [holder.device for holder in holders()] == ["cuda:1"]
    terminal.type("echo slot=$YARD_SLOT gpu=$CUDA_VISIBLE_DEVICES mlflow=$MLFLOW_TRACKING_URI\n")
    terminal.until(r"slot=cuda:1 gpu=GPU-simulated-1 mlflow=sqlite:\S+")
    terminal.type("sleep 600\n")
    time.sleep(1.0)
    terminal.type("\x03")  # Ctrl-C is the program's
    terminal.until(PROMPT)
    terminal.type("sleep 600\n")
    time.sleep(1.0)
    terminal.type("\x1a")  # and Ctrl-Z, too
    terminal.until("Stopped")
    terminal.type("jobs\n")
    terminal.until(r"\[1\]\+\s+Stopped")
    terminal.type("exit 3\n")
    assert terminal.end() == 3
    assert "no job control" not in terminal.seen
    assert termios.tcgetattr(terminal.theirs) == terminal.modes
    assert holders() == []
    row = newest()
    assert (row["name"], row["state"], row["message"]) == ("bash", "Completed", "exit code 3")
    assert (
        "GPU-simulated"
        not in subprocess.run([BIN / "yard", "logs", row["id"]], capture_output=True, text=True, check=True).stdout
    )  # what a shell shows is for nobody else


def test_the_end_is_announced_and_then_comes(home):
    terminal = Terminal(home, "--for", "12s")
    terminal.until(PROMPT)
    terminal.type("sleep 600 & echo job=$!\n")
    job = terminal.until(r"job=(\d+)")[1]
    terminal.until(r"yard: the session ends in \d s: its time of 12 s is over", 15)
    terminal.until("yard: the session ends: its time of 12 s is over", 10)
    assert terminal.end() == 0
    assert gone(job)
    row = newest()
    assert (row["state"], row["message"]) == ("Completed", "its time of 12 s is over")


def test_an_idle_session_ends_and_a_used_one_does_not(home):
    terminal = Terminal(home, "--idle", "4s", "--", sys.executable, "-c", SAVES)
    terminal.until("begins")
    for _ in range(7):
        time.sleep(1.0)
        terminal.type("x")  # somebody is there
    assert terminal.process.poll() is None
    terminal.until("the session ends in 1 s: idle for 4 s", 15)
    terminal.until("has saved", 15)  # it gets SIGTERM, and time
    assert terminal.end() == 0
    assert newest()["message"] == "idle for 4 s"


@pytest.mark.parametrize("how", ["terminal closed", "killed"])
def test_nothing_is_left_of_a_session(home, how):
    terminal = Terminal(home, "--device", "cuda:0")
    terminal.until(PROMPT)
    terminal.type("sleep 600 & setsid sleep 601 & echo job=$!\n")
    job = terminal.until(r"job=(\d+)")[1]
    if how == "killed":
        terminal.process.send_signal(signal.SIGKILL)
    terminal.close()
    terminal.process.wait(60)
    assert gone(job)
