"""What is expected of a run: learned, bounded, and said."""

import pytest

from gpu_pools.bookings.estimates import LAST, Durations, Ended, estimate, rough
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Queue


def run(name="train-rfuav", owner="anna@boxa", *, flow="f", limit_s=None, spent_s=0.0):
    queue = Queue("cuda:1", "training")
    return Waiting("r", name, queue, 5, 0.0, owner, flow=flow, limit_s=limit_s, spent_s=spent_s)


def ended(*seconds, name="train-rfuav", owner="anna@boxa", flow="f"):
    return [Ended(name, owner, flow, one) for one in seconds]


def learned(*runs):
    durations = Durations()
    for some in runs:
        durations.learn(some)
    return durations


def test_runs_of_the_same_name_and_owner_tell_most():
    durations = learned(ended(10, 10, 10), ended(50, 50, 50, owner="ben"), ended(90, 90, 90, name="train-other"))
    assert durations.of(run()) == [10, 10, 10]
    assert durations.of(run(owner="carl")) == [10, 10, 10, 50, 50, 50]
    assert durations.of(run(name="new")) == [10, 10, 10, 90, 90, 90]
    assert len(durations.of(run(name="new", owner="carl"))) == 9
    assert durations.of(run(flow="g")) == []


def test_two_runs_tell_nothing():
    assert learned(ended(10, 10)).of(run()) == []


def test_the_newest_are_learned_from():
    assert learned(ended(*[1] * 30), ended(*[9] * LAST)).of(run()) == [9] * LAST


@pytest.mark.parametrize(
    ("known", "wanted", "seconds", "words"),
    [
        ([3600.0 * n for n in range(1, 11)], {}, 9 * 3600, "is expected to take about 9 h (learned from 10 runs)"),
        ([100.0, 200.0, 300.0], {}, 300, "is expected to take about 5 min (learned from 3 runs)"),
        ([100.0, 200.0, 300.0], {"limit_s": 60.0}, 60, "may take up to its time limit of 1 min"),
        ([], {"limit_s": 5400.0}, 5400, "may take up to its time limit of 1 h 30 min"),
        ([], {"limit_s": 5400.0, "spent_s": 1800.0}, 3600, "may take more up to its time limit of 1 h 30 min"),
        ([600.0] * 3, {"spent_s": 480.0}, 120, "is expected to take about 2 min more (learned from 3 runs)"),
        ([600.0] * 3, {"spent_s": 900.0}, 900, "is expected to take about 15 min more (learned from 3 runs)"),
    ],
)
def test_a_run_is_expected_to_take_as_long_as_nine_in_ten_before_it_within_its_limit(known, wanted, seconds, words):
    found = estimate(run(**wanted), known)
    assert (found.seconds, found.words) == (seconds, words)


def test_what_is_assumed_is_said_with_the_reason():
    found = estimate(run(), [])
    assert found.seconds == 8 * 3600
    assert found.words.startswith("has no time limit, and too few like it have ended to learn from, so 8 h are assumed")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (100, "2 min"),
        (5000, "83 min"),
        (3 * 3600, "3 h"),
        (12_600, "3.5 h"),
        (2e5, "2.5 days"),
    ],
)
def test_seconds_are_rounded_as_people_do(seconds, text):
    assert rough(seconds) == text
