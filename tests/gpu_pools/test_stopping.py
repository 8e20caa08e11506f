"""A signal is a wish: nothing is raised where it arrives, only where the run looks for it or waits."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE = """
import os, signal, sys, threading, time
from gpu_pools.stopping import asked, look, obey, pause
from tasks.base.errors import Interrupted
def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.2)
"""


def said(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_raised_where_the_run_looks_and_nowhere_else(name):
    code = f"""
def work():
    send(signal.{name})
    print("goes on", asked().name)
    look()
try:
    obey(work)
except Interrupted as exc:
    print(exc)
"""
    assert said(code) == f"goes on {name}\nstopped by {name}"


def test_a_file_is_written_whole_while_the_signal_comes(tmp_path):
    code = f"""
import torch
from pathlib import Path
from tasks.run.checkpoint import save_tensors
stop = threading.Event()
def hail():
    while not stop.wait(0.001):
        os.kill(os.getpid(), signal.SIGTERM)
def work():
    hailing = threading.Thread(target=hail)
    hailing.start()
    for number in range(20):
        save_tensors(Path({str(tmp_path)!r}, "a.pt"), {{"w": torch.full((500_000,), float(number))}})
    print(float(torch.load({str(tmp_path / "a.pt")!r})["w"][-1]), asked() is not None)
    stop.set()
    hailing.join()
obey(work)
"""
    assert said(code) == "19.0 True"


def test_who_waits_is_woken_at_once():
    code = """
def work():
    threading.Timer(0.3, send, [signal.SIGTERM]).start()
    pause(30)
begun = time.monotonic()
try:
    obey(work)
except Interrupted:
    print(time.monotonic() - begun < 5)
"""
    assert said(code) == "True"


def test_the_result_and_the_error_of_the_work_are_those_of_the_call():
    code = """
import contextvars
name = contextvars.ContextVar("name")
name.set("of the caller")
print(obey(lambda: name.get()), obey(lambda: threading.current_thread() is threading.main_thread()))
try:
    obey(lambda: [][0])
except IndexError:
    print("IndexError")
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""
    assert said(code) == "of the caller False\nIndexError\nTrue"


def test_a_second_ctrl_c_waits_for_nobody_and_one_that_is_sent_twice_is_one():
    code = """
told = []
def work():
    send(signal.SIGINT, signal.SIGINT)
    print("goes on")
    time.sleep(0.8)
    send(signal.SIGINT)
    time.sleep(60)
try:
    obey(work, on_signal=lambda: told.append(1))
except KeyboardInterrupt:
    print(told)
    sys.stdout.flush()
    os._exit(0)
"""
    begun = time.monotonic()
    assert said(code) == "goes on\n[1]"
    assert time.monotonic() - begun < 40
