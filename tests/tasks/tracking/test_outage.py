"""Outages of real servers cost a training neither a row nor a file, and no time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_outage_costs_a_row_a_file_or_time():
    command = [sys.executable, str(ROOT / "benchmarks" / "outage.py"), "--quick"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rows_lost"], found["rows_twice"], found["files_wrong"]) == (0, 0, 0), done.stdout
    assert found["ratio"] < 1.2, done.stdout  # epochs of a quarter of a second, on a machine that tests keep busy
