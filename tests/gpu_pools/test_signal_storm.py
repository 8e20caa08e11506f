"""SIGTERM at random moments of a training and of a fit: cancelled, timed out or put back, never failed, files whole."""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.runners import output_of

ENDS = {"cancel": "cancelled", "time limit": "timed out", "a stranger": "waits"}


def storm(folder: Path, n: int) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    said, _ = output_of([sys.executable, "-m", "tests.gpu_pools.signal_runner", folder, n, seed])
    rows = [json.loads(line) for line in said.splitlines()]
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
