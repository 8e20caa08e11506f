"""Who may start before and during a booking, and what the others are told."""

import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpu_pools.bookings.booking import Booking
from gpu_pools.bookings.estimates import Estimate
from gpu_pools.bookings.rule import BookingRule
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import DeviceState, Start, Wait, place
from gpu_pools.placement.queues import Queue

HOUR_S = 3600.0
ZONE = ZoneInfo("Europe/Berlin")
START = datetime(2026, 12, 1, 14, 0, tzinfo=ZONE)
TWO_PM = START.timestamp()


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def gpu(index, held=()):
    tag = f"cuda:{index}"
    return DeviceState(tag, f"GPU-{index}", "X", {"training": 1, "inference": 3}, held, 0, 0, (), frozenset())


def run(run_id="r", device="cuda:1", owner="ben@boxa", kind="training"):
    return Waiting(run_id, f"run-{run_id}", Queue(device, kind), 5, 0.0, owner)


def booked(start=START, hours=2.0, every=None, owner="anna"):
    return Booking("a1", "boxa", "cuda:1", owner, start, hours * HOUR_S, every)


def decide(waiting, hours, now, *bookings, stops=True, devices=None):
    expected = Estimate(hours * HOUR_S, f"is expected to take about {hours:g} h (learned from 12 runs)")
    rule = BookingRule({"cuda:1": bookings or [booked()]}, {waiting.run_id: expected}, now, stops=stops)
    (decision,) = place([waiting], devices or [gpu(1)], host="boxa", now=now, rules=[rule])
    return decision


def test_a_run_that_would_run_into_a_booking_waits_and_says_why():
    assert decide(run(), 3, TWO_PM - 2 * HOUR_S) == Wait(
        "r",
        "cuda:1 is booked by anna from 14:00 to 16:00; this run is expected to take about 3 h (learned from 12 runs)",
    )


def test_a_short_run_fills_the_gap_before_it():
    assert decide(run(), 1.9, TWO_PM - 2 * HOUR_S) == Start("r", ("GPU-1",))


def test_nobody_else_starts_during_it():
    for kind in ("training", "inference"):
        assert decide(run(kind=kind), 0.1, TWO_PM + HOUR_S).reason == "cuda:1 is booked by anna until 16:00"


@pytest.mark.parametrize("name", ["anna", "anna@boxa"])
def test_the_owner_starts_before_and_during_it(name):
    for now in (TWO_PM - HOUR_S, TWO_PM, TWO_PM + HOUR_S):
        assert decide(run(owner="anna@boxa"), 9, now, booked(owner=name)) == Start("r", ("GPU-1",))


def test_after_it_everybody_starts():
    assert decide(run(), 9, TWO_PM + 2 * HOUR_S) == Start("r", ("GPU-1",))


def test_a_run_for_any_gpu_takes_one_that_is_not_booked():
    assert decide(run(device="cuda"), 9, TWO_PM, devices=[gpu(0), gpu(1)]) == Start("r", ("GPU-0",))


def test_another_day_is_named():
    assert "from 2026-12-01 14:00 to 16:00;" in decide(run(), 99, TWO_PM - 48 * HOUR_S).reason
    assert (
        "from 2026-12-01 14:00 to 2026-12-03 14:00;" in decide(run(), 99, TWO_PM - 48 * HOUR_S, booked(hours=48)).reason
    )


def test_of_several_bookings_the_first_that_it_meets_is_said():
    evening = booked(START.replace(hour=18), 1, owner="carl")
    assert "booked by carl from 18:00 to 19:00" in decide(run(), 5, TWO_PM + 2 * HOUR_S, booked(), evening).reason


def test_a_training_that_no_gap_is_long_enough_for_starts_all_the_same_and_will_make_way():
    weekly = booked(every="week")
    before = TWO_PM - 24 * HOUR_S
    assert decide(run(), 8 * 24, before, weekly) == Start("r", ("GPU-1",))
    assert "is booked by anna" in decide(run(), 6 * 24, before, weekly).reason  # the next gap is long enough
    for left in ({"waiting": run(kind="inference")}, {"waiting": run(), "stops": False}):
        waiting = left.pop("waiting")
        assert decide(waiting, 8 * 24, before, weekly, **left).reason.endswith("no gap between the bookings is as long")
    assert isinstance(decide(run(), 8 * 24, TWO_PM, weekly), Wait)  # not during one


def test_a_long_training_waits_for_a_booking_that_comes_once():
    assert "is booked by anna" in decide(run(), 40 * 24, TWO_PM - 24 * HOUR_S).reason
