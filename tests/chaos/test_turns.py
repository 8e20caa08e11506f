"""Whose turn it is on a real yard: dead runs keep theirs, and what changes while runs are started counts at once."""

import os
import signal
import time

import pytest

from deployments.services.service import free_port
from tests.chaos.yard import FINAL, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        yield running


@pytest.mark.parametrize(("own", "others"), [(1, 7), (10, 1)])
def test_a_killed_run_goes_on_before_whoever_waits(made, own, others):
    run = made.hold("cuda:0.training", 120, priority=own)
    made.until(made.begun(run), 90, "it begins")
    waiting = [made.hold("cuda:0.training", 0.1, priority=others) for _ in range(8)]
    made.until(lambda: "before this one" in (made.state(waiting[-1])["message"] or ""), 60, "the others wait")
    for attempt in (1, 2):
        os.kill(made.pid(run), signal.SIGKILL)
        made.until(made.begun(run, attempt + 1), 60, f"attempt {attempt + 1} begins")
    assert {made.state(one)["type"] for one in waiting} == {"SCHEDULED"}
    made.cancel(run)
    made.until(lambda: all(made.state(one)["type"] in FINAL for one in (run, *waiting)), 120, "all end")
    assert min(made.of(one)[0]["begin"] for one in waiting) > made.of(run)[2]["begin"]


def test_a_killed_run_whose_queue_was_paused_leaves_its_slot(made):
    run = made.hold("cuda:0.training", 4)
    made.until(made.begun(run), 90, "it begins")
    made.set_queue("cuda:0.training", is_paused=True)
    os.kill(made.pid(run), signal.SIGKILL)
    made.until(lambda: "is paused" in (made.state(run)["message"] or ""), 60, "it waits for the queue")
    assert len(made.of(run)) == 1
    made.set_queue("cuda:0.training", is_paused=False)
    made.until(made.is_(run, "COMPLETED"), 90, "it goes on")


@pytest.mark.parametrize("change", [{"concurrency_limit": 1}, {"is_paused": True}])
def test_what_is_changed_while_runs_are_started_counts_from_the_next_start_on(made, change):
    made.set_queue("cuda:1.training", is_paused=True)
    time.sleep(4)  # the worker reads its queues every three
    runs = [made.hold("cuda:1.training", 60) for _ in range(12)]
    made.set_queue("cuda:1.training", concurrency_limit=16, is_paused=False)
    made.until(lambda: any(made.state(run)["type"] != "SCHEDULED" for run in runs), 90, "one starts")
    made.set_queue("cuda:1.training", **change)

    def started():
        return {run for run in runs if made.state(run)["type"] != "SCHEDULED"}

    before = started()
    time.sleep(8)
    assert len(started() - before) <= 1  # it was being started
    assert len(before) < len(runs)
    for run in runs:
        made.cancel(run)
    made.until(lambda: all(made.state(run)["type"] in FINAL for run in runs), 90, "all are cancelled")
    made.set_queue("cuda:1.training", concurrency_limit=1, is_paused=False)
