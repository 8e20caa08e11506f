"""What ended runs have kept for MLflow is sent by a process of its own, again and again while MLflow is away."""

import sys
import time

import pytest

from gpu_pools.worker.monitor import catch_up
from gpu_pools.worker.monitor.catch_up import CatchUp

COUNTS = "import pathlib, sys; n = pathlib.Path('n'); n.open('a').write('x'); sys.exit(len(n.read_text()) < {})"


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Return a function that says how often the command was called; it fails until the n-th time."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))

    def set_up(succeeds_at: int):
        monkeypatch.setattr(catch_up, "COMMAND", (sys.executable, "-S", "-c", COUNTS.format(succeeds_at)))
        return lambda: len((tmp_path / "n").read_text()) if (tmp_path / "n").exists() else 0

    return set_up


def settle(worker: CatchUp, active=()) -> None:
    """Look until the process that was begun has ended."""
    worker.look(active)
    deadline = time.monotonic() + 30
    while worker._process is not None and time.monotonic() < deadline:
        worker.look(active)
        time.sleep(0.02)


def test_it_is_sent_at_the_start_when_a_run_has_ended_and_every_ten_minutes(calls):
    called, now = calls(0), [1000.0]
    worker = CatchUp(lambda: now[0])
    settle(worker, ["a"])
    assert called() == 1
    settle(worker, ["a", "b"])
    assert called() == 1
    settle(worker, ["a"])
    assert called() == 2
    now[0] += 599
    settle(worker, ["a"])
    assert called() == 2
    now[0] += 1
    settle(worker, ["a"])
    assert called() == 3


def test_while_it_fails_the_pauses_grow(calls, caplog):
    called, now = calls(4), [1000.0]
    worker = CatchUp(lambda: now[0])
    for pause, n in ((0, 1), (29, 1), (1, 2), (30, 2), (30, 3), (119, 3), (1, 4), (30, 4), (570, 5)):
        now[0] += pause
        settle(worker)
        assert called() == n, (pause, n)
    assert caplog.text.count("tried again") == 1


def test_a_worker_that_ends_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setattr(catch_up, "COMMAND", ("sleep", "300"))
    worker = CatchUp(time.time)
    worker.look(())
    worker.close()
    assert worker._process.returncode is not None
