"""Bookings in a real yard: a gap is filled, what is too long waits, what overstays makes way and goes on afterwards."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pytest

from deployments.services.service import free_port
from gpu_pools.names import host_name
from tests.chaos.yard import Yard, yard
from tests.inputs import write_images
from tests.samples import SMALL_TRAINING

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
TRAIN = SMALL_TRAINING | {"batch_size": 4, "num_epochs": 900, "device": "cuda", "checkpoint_every_s": 0.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        running.deploy("train_classifier", "flows.classification.train_classifier", "cuda.training")
        yield running


def command(made: Yard, *words: str) -> str:
    argv = [str(BIN / "yard"), *words]
    done = subprocess.run(argv, env=made.env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def book(made: Yard, device: str, in_s: float, lasts: str, owner: str) -> float:
    """Book a device, and return when that begins, Unix seconds."""
    begin = int(time.time() + in_s)
    at = f"{datetime.fromtimestamp(begin).astimezone():%Y-%m-%d %H:%M:%S%z}"
    command(made, "book", device, "--from", at, "--for", lasts, "--owner", owner)
    return begin


def rows(made: Yard) -> list[dict[str, Any]]:
    return list(json.loads(command(made, "bookings", "--json")))


def message(made: Yard, run: str) -> str:
    return str(made.state(run)["message"] or "")


def test_a_short_run_fills_the_gap_and_a_long_one_waits_for_the_end(made):
    begin = book(made, "cuda:0", 40, "20s", "carl")
    long = made.hold("cuda:0.training", 0.5, owner="ben@boxb", time_limit="1h")
    made.until(lambda: "is booked by carl from" in message(made, long), 30, "the long one says why it waits")
    assert message(made, long).endswith("; this run may take up to its time limit of 1 h")
    short = made.hold("cuda:0.training", 0.5, owner="ben@boxb", time_limit="10s")
    made.until(made.is_(short, "COMPLETED"), 30, "the short one runs")
    assert time.time() < begin
    own = made.hold("cuda:0.training", 0.5, owner="carl@boxa", time_limit="1h")
    made.until(made.is_(own, "COMPLETED"), 30, "the owner's own runs, whatever its limit")
    made.until(lambda: "is booked by carl until" in message(made, long), 60, "the booking has begun")
    assert [row["now"] for row in rows(made)] == [True]
    made.until(made.is_(long, "COMPLETED"), 60, "the long one runs afterwards")
    assert time.time() > begin + 20


def test_the_limit_of_a_device_is_learned_from_runs_like_it(made):
    before = [made.hold("cuda.training", 0.2, owner="ben@boxb") for _ in range(3)]
    for run in before:
        made.until(made.is_(run, "COMPLETED"), 60, "they run")
    book(made, "cuda:0", 3600, "1h", "carl")
    made.kill(made.workers["one"])  # a new one reads it all from Prefect
    made.start_worker("two")
    run = made.hold("cuda:0.training", 0.2, owner="ben@boxb")
    made.until(made.is_(run, "COMPLETED"), 90, "it runs, as runs like it take seconds")
    unknown = made.submit("steps", "cuda:0.training", {"folder": str(made.home)}, owner="ben@boxb")
    made.until(lambda: "so 8 h are assumed" in message(made, unknown), 30, "what is assumed is said")
    made.cancel(unknown)
    (found,) = [row for row in rows(made) if not row["now"]]
    command(made, "bookings", "cancel", found["id"], "--force")
    assert rows(made) == []


def test_a_training_that_overstays_saves_its_state_and_goes_on_after_the_booking(made, tmp_path):
    track = {"experiment": "booked", "run_name": "long"}
    parameters = {"dataset": str(write_images(tmp_path / "images")), "train": TRAIN, "track": track}
    training = made.submit("train_classifier", "cuda:1.training", parameters, owner="ben@boxb")
    checkpoint = made.home / "runs" / training / "training" / "checkpoint.pt"
    made.until(checkpoint.is_file, 200, "a checkpoint")
    begin = book(made, "cuda:1", 5, "25s", "anna")
    own = made.hold("cuda:1.training", 1, owner="anna@boxa")
    made.until(lambda: "is booked by anna until" in message(made, training), 60, "the training has made way")
    assert made.state(training)["type"] == "SCHEDULED"
    made.until(made.is_(own, "COMPLETED"), 20, "the owner's run begins in its time")
    assert begin <= time.time() < begin + 25
    made.until(made.is_(training, "COMPLETED"), 300, "the training goes on and ends well")
    assert time.time() > begin + 25
    client = mlflow.MlflowClient(made.env["MLFLOW_TRACKING_URI"])
    (experiment,) = client.search_experiments(filter_string="name = 'booked'")
    (run,) = client.search_runs([experiment.experiment_id])
    steps = [row.step for row in client.get_metric_history(run.info.run_id, "loss/train")]
    assert steps == list(range(1, TRAIN["num_epochs"] + 1))  # each epoch once: it went on where it was


def test_a_run_that_cannot_go_on_later_is_waited_for_and_named(made):
    run = made.hold("cuda:1.inference", 120, owner="ben@boxb")
    made.until(made.begun(run), 60, "it begins")
    book(made, "cuda:1", 2, "40s", "anna")
    made.until(lambda: any(row["held_up_by"] for row in rows(made)), 30, "the booking says whom it waits for")
    (found,) = [row for row in rows(made) if row["now"]]
    assert re.fullmatch(r".* of ben@boxb", found["held_up_by"][0])
    assert found["device"] == f"{host_name()}/cuda:1"
    assert os.path.exists(f"/proc/{made.pid(run)}")
    assert "now, waits for" in command(made, "bookings")
    made.cancel(run)
