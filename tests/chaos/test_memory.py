"""Runs on real workers and simulated GPUs, whose memory is measured, learned and held against what is free."""

import subprocess
import sys
import time

import pytest

from deployments.services.service import free_port
from gpu_pools.names import FORECAST_LABEL, FORECAST_SOURCE_LABEL, PEAK_LABEL
from tests.chaos.yard import ROOT, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        running.deploy("train_classifier", "tests.chaos.runs.train_classifier", "cuda.training")
        running.set_queue("cuda:0.training", concurrency_limit=3)
        yield running


def train(made, batch: int, device: str = "cuda:0", seconds: float = 1.5) -> str:
    """Submit a training of a batch, which takes 1000 + 200 x batch MiB of 24,576."""
    settings = {"model": "resnet50", "batch_size": batch, "image_size": 224, "precision": "bf16"}
    parameters = {"train": settings, "folder": str(made.home), "seconds": seconds}
    return made.submit("train_classifier", f"{device}.training", parameters, owner="anna@boxa")


def labels(made, run_id: str):
    return made.ask("GET", f"/flow_runs/{run_id}", None)["labels"]


def message(made, run_id: str) -> str:
    return made.state(run_id)["message"] or ""


def test_runs_wait_or_go_elsewhere_by_what_those_before_them_took(made):
    for batch in (8, 16, 40):
        known = train(made, batch)
        made.until(made.is_(known, "COMPLETED"), 90, f"batch {batch} is measured")
        assert labels(made, known)[PEAK_LABEL] == 1000 + 200 * batch
        assert FORECAST_LABEL not in labels(made, known) or batch != 8
    time.sleep(21)  # so often the worker looks for what has been measured
    first = train(made, 64, seconds=25)
    made.until(made.begun(first), 60, "one has the GPU to itself")
    second, small = train(made, 64), train(made, 8, seconds=25)
    elsewhere = train(made, 64, "cuda")
    made.until(lambda: "needs about" in message(made, second), 60, "the second waits")
    made.until(made.begun(small), 60, "a small one starts beside it")
    made.until(made.begun(elsewhere), 60, "one that takes any GPU goes to the other one")
    said = message(made, second)
    assert said.startswith("needs about 13 GB (extrapolated from 3 runs), cuda:0 has "), said
    assert labels(made, elsewhere)["trainyard.device"] == "cuda:1"
    made.until(made.is_(second, "COMPLETED"), 90, "the second starts when the first has ended")
    assert made.of(second)[0]["begin"] > made.of(first)[0]["begin"] + 25
    told = labels(made, second)
    assert told[FORECAST_LABEL] == pytest.approx(1000 + 200 * 64, abs=2)
    # When it starts the worker may have read already what those before it have taken.
    assert told[FORECAST_SOURCE_LABEL] in {
        *("extrapolated from 3 runs", "extrapolated from 4 runs", "measured in 1 run", "measured in 2 runs")
    }
    assert told[PEAK_LABEL] == 1000 + 200 * 64
    command = [sys.executable, "-m", "deployments.cli.app", "show", second]
    said = subprocess.run(command, env=made.env, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"MiB expected ({told[FORECAST_SOURCE_LABEL]}); it took 13,800 MiB" in said


def test_a_new_worker_knows_what_was_measured_without_asking_for_it_again(made):
    kept = made.home / "memory-peaks.json"
    before = kept.read_text()
    assert before.count("resnet50") >= 3
    made.kill(made.workers["one"])
    made.start_worker("two")
    made.until(lambda: made.serves("two"), 120, "it serves")
    run = train(made, 8)
    made.until(made.is_(run, "COMPLETED"), 90, "it runs")
    assert labels(made, run)[FORECAST_SOURCE_LABEL].startswith("measured in ")
