"""How many hours a person may book in a week."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpu_pools.bookings.booking import Booking
from gpu_pools.bookings.limit import check_hours
from tasks.base.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 12, 2, 12, tzinfo=BERLIN).timestamp()  # a Wednesday


def booked(day, hours, every=None, owner="anna", device="cuda:1", number="a1"):
    start = datetime.fromisoformat(f"2026-12-{day:02d}T08:00").replace(tzinfo=BERLIN)
    return Booking(number, "boxa", device, owner, start, hours * 3600.0, every)


def check(new, *others, most=10.0):
    check_hours(others, new, most, NOW)


def test_hours_of_all_gpus_and_hosts_in_a_week_count_together():
    others = (booked(7, 4, device="cuda:0", number="b"), booked(8, 4, owner="anna@boxb", number="c"))
    check(booked(9, 2), *others)
    with pytest.raises(ConfigError, match="found 11 h of anna in the week from Monday 2026-12-07.* need 10 h at most"):
        check(booked(9, 3), *others)


def test_those_of_others_and_of_other_weeks_do_not():
    check(booked(9, 9), booked(8, 9, owner="ben", number="b"), booked(14, 9, number="c"), booked(4, 9, number="d"))


def test_what_comes_again_counts_in_each_week():
    check(booked(7, 2, "day"), most=14)
    with pytest.raises(ConfigError, match="found 14 h of anna in the week from Monday 2026-12-07"):
        check(booked(3, 2, "day"), most=13)  # in the first week there are four days
    with pytest.raises(ConfigError, match="found 11 h of anna in the week from Monday 2026-12-21"):
        check(booked(3, 2, "week"), booked(22, 9, number="b"))
    with pytest.raises(ConfigError, match="found 11 h of anna in the week from Monday 2026-12-21"):
        check(booked(22, 9), booked(3, 2, "week", number="b"))


def test_a_booking_over_sunday_night_is_divided():
    check(booked(6, 24), most=16)
    with pytest.raises(ConfigError, match="found 16 h of anna in the week from Monday 2026-11-30"):
        check(booked(6, 24), most=15)


def test_what_it_replaces_does_not_count():
    check(booked(9, 9), booked(8, 9))
