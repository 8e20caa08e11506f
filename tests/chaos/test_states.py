"""Whoever watches the events of a run is told nothing that is not true: read back from a real server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.services.service import free_port
from tasks.classification.models import build_model
from tests.chaos.yard import Yard, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

YARD = Path(sys.executable).parent / "yard"
BEGUN = ["Pending", "Running"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        yield running


def begin(made: Yard, queue: str, seconds: float = 60, **variables: object) -> str:
    run = made.submit("steps", queue, {"folder": str(made.home), "seconds": seconds}, **variables)
    made.until(made.begun(run), 90, "it begins")
    return run


def told(made: Yard, run: str, last: str) -> list[str]:
    """Return what was told of a run from its start on; sentences of one that waits change without a new state."""
    made.until(lambda: made.told(run)[-1:] == [last], 60, f"{last} is told: {made.told(run)}")
    names = made.told(run)
    names = names[names.index("Pending") :]
    return [name for n, name in enumerate(names) if name != "Scheduled" and (n == 0 or name != names[n - 1])]


def steps(made: Yard, run: str) -> set[str]:
    rows = made.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {row["state"]["name"] for row in rows}


def until_steps(made: Yard, run: str, *names: str) -> None:
    made.until(lambda: steps(made, run) <= set(names), 60, f"the steps are {names}: {steps(made, run)}")


def test_a_cancelled_run_is_cancelling_then_cancelled(made):
    run = begin(made, "cuda:0.training")
    made.cancel(run)
    assert told(made, run, "Cancelled") == [*BEGUN, "Cancelling", "Cancelled"]
    until_steps(made, run, "Cancelled")
    assert "Crashed" not in made.told(run, "task-run")
    assert steps(made, run) == {"Cancelled"}


def test_a_run_out_of_time_is_timed_out(made):
    run = begin(made, "cuda:0.training", time_limit="8s")
    assert told(made, run, "TimedOut") == [*BEGUN, "TimedOut"]
    until_steps(made, run, "Cancelled")
    assert "Crashed" not in made.told(run, "task-run")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_somebody_kills_waits_for_its_next_attempt(made, how):
    run = begin(made, "cuda:0.training", 4)
    os.kill(made.pid(run), how)
    assert told(made, run, "Completed") == [*BEGUN, "Waiting", *BEGUN, "Completed"]
    ends = {"Crashed", "Cancelled", "Completed"}  # the first may have died before the server had heard of it
    made.until(lambda: steps(made, run) <= ends, 60, f"no step is left running: {steps(made, run)}")


def test_a_run_whose_worker_dies_goes_on(made):
    run = begin(made, "cuda:0.training", 6)
    made.kill(made.workers["one"])
    made.start_worker("one")
    assert told(made, run, "Completed") == [*BEGUN, "Completed"]


def test_a_drain_lets_runs_end_and_a_stop_puts_them_back(made):
    run = begin(made, "cuda:0.training", 4)
    made.workers["one"].send_signal(signal.SIGTERM)
    assert made.workers["one"].wait(60) == 0
    assert told(made, run, "Completed") == [*BEGUN, "Completed"]
    made.start_worker("one")
    training, inference = begin(made, "cuda:0.training", 6), begin(made, "cuda:0.inference", 6)
    made.workers["one"].send_signal(signal.SIGUSR1)  # as `yard down --now` does
    assert made.workers["one"].wait(60) == 0
    for stopped in (training, inference):
        assert told(made, stopped, "Waiting") == [*BEGUN, "Waiting"]
        until_steps(made, stopped, "Cancelled")
    made.start_worker("one")
    for stopped in (training, inference):
        assert told(made, stopped, "Completed") == [*BEGUN, "Waiting", *BEGUN, "Completed"]


@pytest.fixture(scope="module")
def request_words(tmp_path_factory):
    """Return the words of a prediction that takes for ever."""
    folder = tmp_path_factory.mktemp("request")
    torch.save(build_model("mobilenet_v3_small", 2, 32).state_dict(), folder / "best.pt")
    config = {"model": "mobilenet_v3_small", "classes": ["a", "b"], "image_size": 32, "mean": [0.5] * 3}
    (folder / "config.json").write_text(json.dumps({**config, "std": [0.2] * 3}))
    (folder / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "pictures" / "0.png")
    for n in range(1, 20_000):
        os.link(folder / "pictures" / "0.png", folder / "pictures" / f"{n}.png")
    options = ["predict.n_workers=1", "predict.batch_size=1", "predict.precision=fp32", "predict.device=cpu"]
    values = [f"data={folder / 'pictures'}", f"predict.weights={folder / 'best.pt'}", *options]
    return [word for value in values for word in ("--set", value)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_persons_own_run_is_a_cancel(made, request_words, how):
    name = f"own-{how.name}"
    with (made.home / f"{name}.txt").open("wb") as output:
        # Whoever runs the tests in the background of a shell has Ctrl-C ignored, and every process inherits that.
        command = ["env", "--default-signal=INT", str(YARD), "run", "predict", *request_words, "--name", name]
        process = subprocess.Popen(command, env=made.env, cwd=made.home, stdout=output, stderr=output)
    tables = made.home.glob
    made.until(
        lambda: list(tables("runs/*/tmp/predict/predictions.csv")) or process.poll() is not None, 120, "it works"
    )
    time.sleep(0.5)
    process.send_signal(how)
    assert process.wait(60) == 130, (made.home / f"{name}.txt").read_text()
    (found,) = made.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
    assert told(made, found["id"], "Cancelled")[-2:] == ["Running", "Cancelled"]
    assert found["state"]["message"].startswith(f"stopped by {'Ctrl-C' if how == signal.SIGINT else 'SIGTERM'}")
    assert found["labels"]["trainyard.device"] == "cpu"
    assert found["labels"]["trainyard.owner"]
    said = (made.home / f"{name}.txt").read_text()
    assert "Crash" not in said
    assert "Traceback" not in said
