"""A run of `yard run` ends at its time limit, and goes on with another one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

YARD = Path(sys.executable).parent / "yard"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def here(tmp_path):
    """Return a function that calls `yard` in a home of its own, without a server."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TRAINYARD_"))}
    own |= {"TRAINYARD_HOME": str(tmp_path), "TRAINYARD_LOCK_DIR": str(tmp_path / "locks"), "PYTHONPATH": str(ROOT)}
    own |= {"TRAINYARD_FLOWS": "tests.chaos.runs.hold", "TRAINYARD_DATABASE": "sqlite", "TRAINYARD_LEASE": "none"}
    own |= {"CUDA_VISIBLE_DEVICES": "", "PREFECT__FLOW_RUN_ID": "here"}
    own.pop("MLFLOW_TRACKING_URI", None)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([YARD, *words], env=own, capture_output=True, text=True, check=False, cwd=tmp_path)

    return call


def test_a_run_here_ends_at_its_time_limit_and_goes_on_with_another(here, tmp_path):
    parameters = [f"--set=folder={tmp_path}", "--set=seconds=4", "--name=brief"]
    limited = here("run", "hold", *parameters, "--time-limit", "2s")
    assert limited.returncode == 1, limited.stdout + limited.stderr
    assert "stopped after 2 s, its time limit; what it saved is kept: `yard resume" in " ".join(limited.stderr.split())
    assert "TimedOut" in here("runs").stdout
    again = here("resume", "brief", "--time-limit", "1m")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Completed" in here("runs").stdout


def test_a_wrong_limit_is_refused_before_anything_starts(here):
    done = here("resume", "--time-limit", "soon")
    assert (done.returncode, done.stdout) == (1, "")
    assert "found duration 'soon'" in done.stderr


def test_another_number_of_gpus_is_for_flows_that_compute_on_several(here, tmp_path):
    assert here("run", "hold", f"--set=folder={tmp_path}", "--set=seconds=9", "--time-limit", "1s").returncode == 1
    done = here("resume", "--devices", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "flow hold computes on one device, found --devices 2" in " ".join(done.stderr.split())
