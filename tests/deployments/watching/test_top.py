"""`yard top` shows devices, slots, runs and what waits, and leaves the terminal as it was."""

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from rich.console import Console

from deployments.runs.find import RunRow
from deployments.watching.picture import ServerView, picture
from deployments.watching.screen import draw
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Queue
from gpu_pools.slots.lease import Holder, acquire
from gpu_pools.slots.slot_files import SlotProgress
from gpu_pools.slots.waiters import Announcement
from tests.deployments.homes import home_without_server

FIRST, LAST = b"\x1b[?1049h", b"\x1b[?1049l"  # of a terminal: to its second screen, and back


@pytest.fixture
def home(tmp_path):
    """A home of its own on a host with two simulated GPUs; on cuda:0 a run is at epoch 3 of 10."""
    state = tmp_path / "gpus.json"
    load = {"memory_used_mib": 12_288, "utilisation_percent": 83, "temperature_c": 71}
    state.write_text(json.dumps({"cuda:0": load, "cuda:1": {"utilisation_percent": None}}))
    with home_without_server(tmp_path, TRAINYARD_SIMULATED_STATE=state):
        own = ("GPU-simulated-0", "training", 0, os.getpid(), time.time(), None)
        lease = acquire("GPU-simulated-0", "training", 1, Holder("r1", "resnet", "anna@boxa", "cuda:0", *own))
        assert lease is not None
        with lease:
            lease.record(progress=SlotProgress(3, 10, 1500.0, time.time()))
            yield tmp_path


def row(run_id, kind, state, message="", **more):
    since = "2026-11-29T10:00:00+00:00"
    return RunRow(run_id, run_id[:8], f"name-{run_id}", "classification", "ben@boxa", "cuda", "cuda.training", 3,
                  kind, state, since, message, **more)  # fmt: skip


def drawn(server=None):
    out = Console(width=160, record=True, file=io.StringIO())
    out.print(draw(picture(server or ServerView())))
    return out.export_text()


def line_of(text, *words):
    (found,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return found


def test_a_device_shows_its_load_its_slots_and_how_far_who_holds_them_is(home):
    text = drawn()
    gpu = line_of(text, "cuda:0", "simulated GPU 0")
    for said in ("12.0 of 24.0 GiB", "██████░░░░░░", "83 % busy", "71 °C"):
        assert said in gpu
    assert "busy" not in line_of(text, "cuda:1", "simulated GPU 1")  # it does not tell
    run = line_of(text, "resnet of anna@boxa")
    assert "epoch 3 of 10, about 25 min more, until " in run
    assert "████░░░░░░░░" in run
    below = text[text.index(run) + len(run) :].splitlines()[1]
    assert below.split() == ["free", "3", "of", "3", "inference"]


def test_what_waits_is_there_with_its_reason_and_what_runs_elsewhere(home):
    rows = [
        row("r1", "RUNNING", "Running"),
        row("r2", "RUNNING", "Running", epoch=2, n_epochs=4),
        row("r3", "RUNNING", "Waiting", "cuda:0 is training resnet of anna@boxa"),
        row("r4", "SCHEDULED", "Waiting", "ben has two GPUs already"),
        replace(row("r5", "SCHEDULED", "Scheduled"), since="2199-01-01T00:00:00+00:00"),
    ]
    text = drawn(ServerView(rows, {"cuda:0.inference": 1}, at=time.time()))
    assert "2 runs wait" in text
    assert "cuda:0 is training resnet of anna@boxa" in line_of(text, "name-r3")
    assert "ben has two GPUs already" in line_of(text, "name-r4")
    assert text.index("elsewhere") < text.index("name-r2") < text.index("\nwaits") < text.index("name-r3")
    assert "name-r1" not in text  # it has its slot above
    assert "name-r5" not in text  # it is not due
    assert line_of(text, "1 of 1 inference")


def test_while_the_server_is_away_the_leases_and_the_waiting_of_this_host_are_shown(home):
    with Announcement("worker") as notice:
        notice.say([Waiting("w", "unet", Queue("cuda:0", "training"), 5, time.time(), "ben@boxa")])
        text = drawn(ServerView(fault="no answer from http://127.0.0.1:1/api", at=time.time()))
    assert "what the server knows is missing: no answer from http://127.0.0.1:1/api" in text
    assert "resnet of anna@boxa" in text
    assert "for cuda:0 training" in line_of(text, "unet of ben@boxa")


def test_a_server_that_stopped_answering_is_told(home):
    assert "the server has not answered for 60 s" in drawn(ServerView(at=time.time() - 60))


def test_locks_that_cannot_be_read_are_a_sentence(home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(home / "file"))
    assert "fault: " in drawn()


@contextmanager
def terminal(home):
    """Run `yard top` in a terminal; yield its process, the terminal, and a function that reads until some bytes."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli.app", "top"], stdin=its, stdout=its, stderr=its, env=env,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    seen = bytearray()

    def until(what):
        deadline = time.monotonic() + 60
        while what not in seen:
            assert time.monotonic() < deadline, bytes(seen)
            if select.select([ours], [], [], 0.5)[0]:
                seen.extend(os.read(ours, 65536))
        return bytes(seen)

    try:
        yield process, ours, its, until
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(its)


@pytest.mark.parametrize("end", [b"q", b"\x03", signal.SIGTERM], ids=["q", "ctrl-c", "sigterm"])
def test_a_terminal_is_left_as_it_was(home, end):
    with terminal(home) as (process, ours, its, until):
        before = termios.tcgetattr(its)
        until(FIRST)
        assert "resnet of anna@boxa" in until(b"resnet of anna@boxa").decode()
        assert not termios.tcgetattr(its)[3] & termios.ECHO
        process.send_signal(end) if isinstance(end, signal.Signals) else os.write(ours, end)
        until(LAST)
        assert process.wait(30) == (143 if end == signal.SIGTERM else 0)
        assert termios.tcgetattr(its) == before


def test_a_pipe_gets_one_picture(home):
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli.app", "top"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("yard top") == 1
    assert "resnet of anna@boxa" in done.stdout
    assert "\x1b" not in done.stdout
