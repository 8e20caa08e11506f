"""A run that waits for a device that is taken is moved to a free one, and starts there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.services.service import free_port
from tests.chaos.yard import yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

YARD = Path(sys.executable).parent / "yard"


def test_a_moved_run_starts_where_it_was_moved_to(tmp_path):
    with yard(tmp_path, free_port()) as made:
        first = made.hold("cuda:0.training", 300)
        made.until(made.begun(first), 200, "the first run holds cuda:0")
        second = made.hold("cuda:0.training", 0.5, owner="anna@boxa")
        made.until(lambda: made.state(second)["name"] == "Waiting", 60, "the second one waits")
        env = {**made.env, "TRAINYARD_FLOWS": "tests.chaos.runs.hold", "TRAINYARD_OWNER": "anna@boxa"}
        words = [YARD, "move", second, "--device", "cuda:1"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        made.until(made.is_(second, "COMPLETED"), 120, "the second run has ended")
        assert made.state(first)["type"] == "RUNNING"
        (span,) = made.of(second)
        assert span["visible"] == "GPU-simulated-1"
        row = json.loads(
            subprocess.run([YARD, "show", second, "--json"], env=env, capture_output=True, check=True).stdout
        )
        assert row["queue"] == "cuda:1.training"
