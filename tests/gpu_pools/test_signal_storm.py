"""SIGTERM at random moments of a training and of a fit: cancelled, timed out or put back, never failed, files whole."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENDS = {"cancel": "cancelled", "time limit": "timed out", "a stranger": "waits"}


def storm(folder: Path, n: int) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu_pools.signal_runner", str(folder), str(n), str(seed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    counts = Counter((flow, why, code, saved, ended) for flow, why, _, code, saved, _, ended in rows)
    print(f"{'flow':<34}{'signal by':<14}{'exit code':<12}{'checkpoints':<14}{'ended':<12}times")
    for (flow, why, code, saved, ended), times in sorted(counts.items()):
        print(f"{flow:<34}{why:<14}{code:<12}{saved:<14}{ended:<12}{times}")
    assert len(rows) == n
    assert not [row for row in rows if row[-1] != ENDS[row[1]]]
    told = {state for row in rows for state in row[5]}
    assert told <= {"RUNNING Running"}, told


def test_a_run_ends_as_it_was_asked_to_at_any_moment(tmp_path):
    storm(tmp_path, 8)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_signals(tmp_path):
    storm(tmp_path, 200)
