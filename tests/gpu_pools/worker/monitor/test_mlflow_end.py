"""MLflow is told until it has heard, by a process of its own."""

import json
import sys
import time

from gpu_pools.worker.monitor import mlflow_end
from gpu_pools.worker.monitor.mlflow_end import MlflowEnd
from tasks.base.workspace import run_dir
from tests.gpu_pools.worker.monitored import new_entry

FAILS_ONCE = """
import pathlib, sys
tries = pathlib.Path(sys.argv[1], "n")
tries.open("a").write("x")
sys.exit(len(tries.read_text()) < 2)
"""


def wait_for(done, seconds: float = 60) -> bool:
    """Call until it is true."""
    deadline = time.monotonic() + seconds
    while not (found := done()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_what_could_not_be_told_is_told_half_a_minute_later(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setattr(mlflow_end, "COMMAND", (sys.executable, "-S", "-c", FAILS_ONCE))
    now, entry = [0.0], new_entry("a", reason="FAILED")
    end, tries = MlflowEnd(lambda: now[0]), run_dir("a") / "n"
    assert not end.is_done(entry)
    assert wait_for(lambda: not end.is_done(entry) and end._not_before)
    now[0] = 29.0
    assert not end.is_done(entry)
    assert tries.read_text() == "x"
    now[0] = 31.0
    assert wait_for(lambda: end.is_done(entry))
    assert tries.read_text() == "xx"


def test_the_real_command_removes_what_was_half_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    half = run_dir("a") / "split.tmp"
    half.mkdir()
    (half / "x").write_text(json.dumps(1))
    end = MlflowEnd(time.time)
    assert wait_for(lambda: end.is_done(new_entry("a", reason="KILLED")))
    assert not half.exists()
