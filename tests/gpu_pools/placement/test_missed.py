"""Of the due runs of a schedule the newest stands for all, in the place of the first; others are not touched."""

from dataclasses import replace

from gpu_pools.placement.missed import Waited, superseded
from gpu_pools.prefect_client import Run

RUN = Run("", "", "cpu.housekeeping", None, "SCHEDULED", "", "", 0.0, {}, "", schedule="hourly", scheduled=True)


def run(name, since, **fields):
    return replace(RUN, id=name, since=since, **fields)


def test_a_night_leaves_one_run_of_each_schedule():
    night = [run(f"h{hour}", 3600.0 * hour) for hour in range(12)]
    other = [run("n1", 7200.0, schedule="nightly"), run("mine", 10.0, schedule="")]
    pairs = superseded([*night, *other])
    assert [(old.id, new.id) for old, new in pairs] == [(f"h{hour}", "h11") for hour in range(11)]


def test_runs_of_people_and_those_that_have_begun_stay():
    due = [run("a", 1.0, schedule=""), run("b", 2.0, schedule=""), run("c", 3.0, begun=True), run("d", 4.0)]
    assert superseded(due) == []


def test_two_that_are_due_at_the_same_time_leave_one():
    assert len(superseded([run("a", 1.0), run("b", 1.0)])) == 1


def test_the_newest_waits_since_the_first_did():
    waited, first, second, third = Waited(), run("a", 10.0), run("b", 20.0), run("c", 30.0)
    waited.look([first])
    waited.look([first, second])
    waited.look([second, third])
    assert waited.since(third) == 10.0
    assert waited.since(run("m", 25.0, schedule="")) == 25.0
    waited.look([])  # it has started
    waited.look([third])
    assert waited.since(third) == 30.0
