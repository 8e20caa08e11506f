"""Signals at random moments of a training and of a fit: a run ends as it was asked to, and its checkpoint is whole."""

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from deployments.services.service import free_port
from tests.chaos.yard import Yard, yard
from tests.inputs import write_images, write_scene
from tests.samples import SMALL_TRAINING

pytestmark = pytest.mark.yard

TRAIN = SMALL_TRAINING | {"batch_size": 4, "num_epochs": 200, "device": "cuda", "checkpoint_every_s": 0.05}
FIT = {"preset": "quick", "device": "cuda", "max_steps": 20_000, "cap_max": 400, "test_every": 4, "eval_every": 40}
ENDS = {"cancel": "Cancelled", "time limit": "TimedOut", "SIGTERM": "put back", "SIGINT": "put back"}
FLOWS = ("train_classifier", "train_splat")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        running.deploy("train_classifier", "flows.classification.train_classifier", "cuda.training")
        running.deploy("train_splat", "flows.splatting.train_splat", "cuda.training")
        yield running


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """Return what each flow is given."""
    data = tmp_path_factory.mktemp("data")
    images, scene = write_images(data / "images"), write_scene(data / "scene")
    return {
        "train_classifier": {"dataset": str(images), "train": TRAIN, "track": {"experiment": "images"}},
        "train_splat": {"scene": str(scene), "train": FIT, "track": {"experiment": "scenes"}},
    }


def process_of(made: Yard, run: str) -> int | None:
    """Return the process that works for a run, None where there is none."""
    (found,) = made.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    pid = int((found["infrastructure_pid"] or "0").rpartition(":")[2])
    return pid if psutil.pid_exists(pid) else None


def try_one(made: Yard, flow: str, parameters: dict[str, Any], chance: random.Random) -> tuple[str, str, str, float]:
    """Start a run and end it at a random moment; return flow, way, how it ended, and the moment in seconds."""
    way, moment = chance.choice(list(ENDS)), chance.uniform(0, 7)
    limit = {"time_limit": f"{1 + round(moment)}s"} if way == "time limit" else {}
    run = made.submit(flow, "cuda.training", parameters, **limit)
    made.until(lambda: process_of(made, run) or made.state(run)["type"] == "FAILED", 400, "it has a process")
    if way != "time limit":
        time.sleep(moment)
    if way == "cancel":
        made.cancel(run)
    elif way != "time limit":
        pid = process_of(made, run)
        assert pid is not None
        os.kill(pid, signal.Signals[way])
        made.until(lambda: "Waiting" in made.told(run) or made.is_(run, "FAILED", "CRASHED")(), 120, "it is put back")
        made.cancel(run)
    made.until(made.is_(run, "CANCELLED", "FAILED", "CRASHED", "COMPLETED"), 120, f"{run} ends")
    told = made.told(run)
    bad = [name for name in told if name in {"Failed", "Crashed", "Completed"}]
    ended = "put back" if way.startswith("SIG") and "Waiting" in told else str(made.state(run)["name"])
    folder = made.home / "runs" / run / "training"
    for path in (folder / "checkpoint.pt", folder / "splat.ckpt"):
        if path.exists():
            torch.load(path, weights_only=True)
    made.until(lambda: not torn(folder), 60, "nothing half written is left")
    return flow, way, "+".join([ended, *bad]), moment


def torn(folder: Path) -> list[Path]:
    """Return the files that are half written; of a process that had to be killed, they are removed right after."""
    return [path for pattern in (".*.pt.*", ".splat.ckpt.*") for path in folder.glob(pattern)]


def storm(made: Yard, parameters: dict[str, dict[str, Any]], n: int, seed: int) -> None:
    """Send `n` signals at random moments; print the table of what became of them and hold it against what was asked."""
    print(f"seed {seed}")
    jobs = [(FLOWS[i % 2], parameters[FLOWS[i % 2]], random.Random(seed + i)) for i in range(n)]
    with ThreadPoolExecutor(3) as pool:
        rows = list(pool.map(lambda job: try_one(made, *job), jobs))
    counts = Counter((flow, way, ended) for flow, way, ended, _ in rows)
    print(f"{'flow':<18}{'signal by':<14}{'ended':<24}times")
    for (flow, way, ended), times in sorted(counts.items()):
        print(f"{flow:<18}{way:<14}{ended:<24}{times}")
    wrong = [row for row in rows if row[2] != ENDS[row[1]]]
    assert not wrong, f"seed {seed}: {wrong}\n{made.tails()}"


@pytest.mark.timeout(900)
def test_a_run_ends_as_it_was_asked_to_at_any_moment(made, parameters):
    storm(made, parameters, 10, random.randrange(10**6))
