"""Predictions in a real yard: many at once, killed, cancelled, failed, out of time; nothing of them is left behind."""

import os
import re
import signal
import time
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from deployments.services.service import free_port
from gpu_pools.slots.lease import holders
from tests.chaos.yard import FINAL, Yard, yard
from tests.samples import write_weights

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

N_REQUESTS, N_PATIENT = 40, 10
N_ENDLESS = 60_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_LOCK_DIR", running.env["TRAINYARD_LOCK_DIR"])
        running.deploy("predict", "flows.inference.predict", "cuda.inference", time_limit="300s")
        running.deploy("predict_many", "flows.inference.predict_many", "cpu.pipeline")
        yield running


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "few"
    folder.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (400, 600, 3), dtype=np.uint8)  # takes a while to decode
        cv2.imwrite(str(folder / f"{i}.png"), noise)
    return folder


@pytest.fixture(scope="module")
def endless(few):
    """Return so many images that a request of them is met in its middle."""
    folder = few.parent / "endless"
    folder.mkdir()
    for i in range(N_ENDLESS):
        os.link(few / f"{i % 3}.png", folder / f"{i:05}.png")
    return folder


def request(source, weights, **more: Any) -> dict[str, Any]:
    asked = {"weights": str(weights), "n_workers": 1, "batch_size": 1, "precision": "fp32", **more}
    return {"data": source, "predict": asked}


def folder_of(made: Yard, run: str):
    return made.home / "runs" / run


def left_by(made: Yard, run: str) -> list[str]:
    """Return the temporary files in the folder of a run, and every part of a result."""
    found = folder_of(made, run).rglob("*")
    return [str(path) for path in found if "tmp" in path.name or path.name.startswith(("predictions.", "gallery."))]


def started(made: Yard, run: str) -> int:
    """Wait until a request is in the middle of its images; return its process."""
    table = folder_of(made, run) / "tmp" / "predict" / "predictions.csv"
    made.until(lambda: table.is_file() and table.stat().st_size > 0, 90, "it names images")
    (found,) = made.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return int(found["infrastructure_pid"].rpartition(":")[2])


def test_forty_requests_at_once_keep_the_limits_and_the_refused_are_told_why(made, few, weights):
    bodies = []
    for number in range(N_REQUESTS):
        variables = {"when_busy": "wait" if number < N_PATIENT else "refuse", "owner": f"user{number}@boxa"}
        bodies.append(
            {
                "name": f"request-{number}",
                "parameters": request(str(few), weights),
                "work_queue_name": "cuda.inference",
                "job_variables": variables,
            }
        )
    runs = made.submit_many("predict", bodies)
    most: Counter[str] = Counter()
    deadline = time.monotonic() + 300
    while any(made.states()[run]["type"] not in FINAL for run in runs):
        assert time.monotonic() < deadline, made.tails()
        held = Counter(holder.uuid for holder in holders() if holder.kind == "inference")
        most |= held
        time.sleep(0.2)
    states = made.states()
    assert all(states[run]["type"] == "COMPLETED" for run in runs[:N_PATIENT]), made.tails()
    assert set(most.values()) == {3}, most  # both devices full, none beyond its limit
    refused = [states[run] for run in runs if states[run]["type"] == "CANCELLED"]
    assert len(refused) >= N_REQUESTS - N_PATIENT - 6
    for state in refused:
        assert state["message"].startswith("refused: all GPUs are taken: "), state
        assert "@boxa" in state["message"]
    made.until(lambda: not holders(), 30, "every slot is free")
    for run in runs:
        if states[run]["type"] == "CANCELLED":
            assert not left_by(made, run)
        else:
            assert len(pd.read_csv(folder_of(made, run) / "prediction" / "predictions.csv")) == 3
            made.until(lambda run=run: not list(folder_of(made, run).rglob("*tmp*")), 30, "nothing is left")


def test_who_waits_for_a_request_reads_how_far_it_is(made, endless, weights):
    made.set_queue("cuda:0.inference", concurrency_limit=1)
    run = made.submit("predict", "cuda:0.inference", request(str(endless), weights))
    started(made, run)
    waits = made.submit("predict", "cuda:0.inference", request(str(endless), weights))
    said = re.compile(rf", image \d+ of {N_ENDLESS}, (about \d+ min|less than a minute) more$")
    made.until(lambda: said.search(made.state(waits)["message"] or ""), 60, "it says how far the other is")
    for other in (waits, run):
        made.cancel(other)
        made.until(made.is_(other, "CANCELLED"), 30, "it is cancelled")
    made.set_queue("cuda:0.inference", concurrency_limit=3)


def test_a_killed_request_starts_again_and_a_cancelled_one_leaves_nothing(made, endless, weights):
    run = made.submit("predict", "cuda:0.inference", request(str(endless), weights))
    os.kill(first := started(made, run), signal.SIGKILL)
    made.until(lambda: not os.path.exists(f"/proc/{first}"), 10, "it is gone")
    made.until(lambda: not (folder_of(made, run) / "tmp").exists(), 30, "its files are swept")
    made.until(lambda: made.state(run)["type"] == "RUNNING", 90, "it starts again")
    second = started(made, run)
    assert second != first
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 10, "it is cancelled")
    made.until(lambda: not left_by(made, run), 10, "nothing is left")


def test_worker_and_request_killed_together_leave_nothing_that_the_next_worker_does_not_sweep(made, endless, weights):
    run = made.submit("predict", "cuda:1.inference", request(str(endless), weights))
    pid = started(made, run)
    made.kill(made.workers["one"])
    os.kill(pid, signal.SIGKILL)
    assert left_by(made, run)
    made.cancel(run)
    made.start_worker("one")
    made.until(made.is_(run, "CANCELLED"), 60, "the next worker brings it to its end")
    made.until(lambda: not left_by(made, run), 10, "nothing is left")


def test_a_failed_request_leaves_nothing(made, few, weights):
    run = made.submit("predict", "cuda:1.inference", request(str(few), weights.parent / "absent.pt"))
    made.until(made.is_(run, "FAILED"), 90, "it fails")
    assert "absent.pt" in made.state(run)["message"]
    made.until(lambda: not left_by(made, run), 10, "nothing is left")


def test_a_request_that_is_out_of_time_leaves_nothing(made, endless, weights):
    run = made.submit("predict", "cuda:1.inference", request(str(endless), weights), time_limit="8s")
    made.until(made.is_(run, "FAILED"), 90, "it is stopped")
    assert made.state(run)["message"].startswith("stopped after 8 s, its time limit")
    made.until(lambda: not left_by(made, run), 10, "nothing is left")


def test_many_sources_are_a_request_each_and_one_that_fails_does_not_stop_the_others(made, few, weights):
    sources = [str(few / "0.png"), str(few / "absent"), str(few)]
    run = made.submit("predict_many", "cpu.pipeline", request(sources, weights), owner="anna@boxa")
    made.until(made.is_(run, "FAILED"), 120, "it ends")
    message = made.state(run)["message"]
    assert "1 of 3 sources failed" in message
    assert str(few / "absent") in message
    body = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
    requests = made.post("/flow_runs/filter", body)
    assert Counter(found["state"]["type"] for found in requests) == {"COMPLETED": 2, "FAILED": 1}
    assert {found["work_queue_name"] for found in requests} == {"cuda.inference"}
    assert {found["job_variables"]["owner"] for found in requests} == {"anna@boxa"}
