"""`yard doctor --try`: the command for real, and the table it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deployments.trial import print_report, read_report
from tasks.trial.plan import TOTAL_S
from tasks.trial.report import CheckResult, Place, Report

YARD = Path(sys.executable).parent / "yard"
TIMED = {"copy rate", "resnet18", "vit_b_16"}
"""Whose verdict other processes on these cores decide."""


def tried(tmp_path: Path, device: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    environ = {**os.environ, "TRAINYARD_HOME": str(tmp_path / "home"), "TRAINYARD_LOCK_DIR": str(tmp_path / "locks")}
    command = [YARD, "doctor", "--try", device, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.stdout, done.stderr
    return done, json.loads(done.stdout)


@pytest.mark.timeout(TOTAL_S["cpu"] + 120)
def test_the_cpu_is_tried_and_computes_rightly(tmp_path):
    done, found = tried(tmp_path, "cpu")
    rows = {row["check"]: row for row in found["checks"]}
    assert list(rows) == [
        *("device", "second training", "after a death", "foreign process", "copy rate", "loss and gradients"),
        *("resnet18", "vit_b_16", "batch too large", "killed and resumed"),
        *("splat picture", "splat loss", "splat refinement", "splats"),
    ]
    failed = {name: row for name, row in rows.items() if row["verdict"] == "failed"}
    assert not {name: row for name, row in failed.items() if name not in TIMED}
    assert rows["foreign process"]["verdict"] == "not here"
    assert all(row["figure"] for row in rows.values())
    assert all(rows[name]["values"]["ratio"] > 0 for name in ("resnet18", "vit_b_16", "splats"))
    assert (found["device"], found["ok"], done.returncode) == ("cpu", not failed, int(bool(failed)))
    (report,) = (tmp_path / "home" / "runs").glob("*/trial/trial.json")
    assert read_report(report).as_json() == found
    assert os.listdir(report.parent) == ["trial.json"]  # what was worked with is gone


def test_a_device_that_is_not_here_is_said():
    environ = {**os.environ, "TRAINYARD_SIMULATE_GPUS": "1"}
    command = [YARD, "doctor", "--try", "cuda:7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 1
    assert "found no device 'cuda:7'; have: cpu, cuda:0" in done.stderr
    assert not done.stdout


@pytest.mark.gpu
def test_the_gpu_is_tried_and_all_is_well(tmp_path):
    done, found = tried(tmp_path, "cuda")
    assert found["ok"], [row for row in found["checks"] if row["verdict"] == "failed"]
    assert found["seconds"] <= TOTAL_S["cuda"]
    assert done.returncode == 0


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_and_loses_nothing(width, capsys):
    place = Place("cuda:0", "NVIDIA H200", "GPU-1", "cuda")
    figure = "0.43 of a plain loop (at least 0.85): 2,000 against 4,650 images/s; 60 steps each of batch 256 at 224 px"
    rows = [
        CheckResult("resnet18", "failed", figure, "give it more than 16 cores"),
        CheckResult("splats", "not here", "gsplat", "pip"),
    ]
    print_report(Report(place, 3.0, rows), Console(width=width))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= width
    words = set(text.split())
    assert set(f"{figure} failed not here give it more than 16 cores".split()) <= words
    assert text.splitlines()[-1] == "cuda:0 (NVIDIA H200): 1 of 1 checks failed: resnet18; 1 not here"
