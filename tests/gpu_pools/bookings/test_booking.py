"""Bookings never meet, and keep to the clocks of their zone."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pools.bookings.booking import Booking, check_free, parse_start, span, upcoming
from gpu_pools.names import is_called
from tasks.base.errors import ConfigError

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
ZONES = [BERLIN, NEW_YORK, ZoneInfo("Africa/Casablanca"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("UTC")]
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=BERLIN).timestamp()
YEAR_S = 366 * 86_400.0
HOUR_S = 3600.0


def book(start, hours=2.0, every=None, *, zone=BERLIN, owner="anna@boxa", number="a1"):
    return Booking(
        number, "boxa", "cuda:1", owner, datetime.fromisoformat(start).replace(tzinfo=zone), hours * HOUR_S, every
    )


def clocks(booking, years=1.0):
    return [
        datetime.fromtimestamp(time.begin, booking.start.tzinfo) for time in booking.times(NOW, NOW + years * YEAR_S)
    ]


def test_a_weekly_booking_stays_at_its_time_of_day_when_the_clocks_change():
    shown = clocks(book("2026-12-01 14:00", every="week"))
    assert len(shown) == 52
    assert {(at.weekday(), at.hour, at.minute) for at in shown} == {(1, 14, 0)}
    assert {at.utcoffset() for at in shown} == {timedelta(hours=1), timedelta(hours=2)}


def test_it_lasts_as_long_over_a_change_of_the_clocks():
    (time,) = book("2027-03-28 01:00", 3.0).times(NOW, NOW + YEAR_S)
    assert time.end - time.begin == 3 * HOUR_S
    assert span(time) == "from 2027-03-28 01:00 to 05:00 Europe/Berlin"


def test_a_daily_time_that_the_clocks_leave_out_comes_later_that_day():
    booking = book("2027-03-26 02:30", every="day")
    assert [f"{at:%d %H:%M}" for at in clocks(booking)[:4]] == ["26 02:30", "27 02:30", "28 03:30", "29 02:30"]


def test_a_daily_time_that_comes_twice_is_the_first():
    booking = book("2027-10-30 02:30", every="day")
    assert clocks(booking)[1].isoformat() == "2027-10-31T02:30:00+02:00"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-12-01 14:00", "2026-12-01T14:00:00+01:00"),
        ("2027-07-01 14:00", "2027-07-01T14:00:00+02:00"),
        ("2026-12-01 14:00Z", "2026-12-01T15:00:00+01:00"),
        ("2027-10-31 02:30+01:00", "2027-10-31T02:30:00+01:00"),
        ("14:00", "2026-11-29T14:00:00+01:00"),
        ("9:30", "2026-11-30T09:30:00+01:00"),
        ("now", "2026-11-29T12:00:00+01:00"),
    ],
)
def test_times_are_read_by_the_clocks_of_the_zone(text, found):
    assert parse_start(text, BERLIN, NOW).isoformat() == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2027-03-28 02:30", "which the clocks of Europe/Berlin leave out: 03:30 comes in its place"),
        ("2027-10-31 02:30", r"comes twice in Europe/Berlin: write 02:30\+02:00 for the first, 02:30\+01:00 for the"),
        ("2026-11-29 11:00", "found the time 2026-11-29 11:00 Europe/Berlin, need one to come, within two years"),
        ("2029-01-01 11:00", "need one to come, within two years"),
        ("25:00", "found the time '2026-11-29 25:00', need one such as"),
        ("tuesday", "found the time 'tuesday', need one such as"),
    ],
)
def test_a_time_that_is_none_is_refused_with_one_sentence(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_start(text, BERLIN, NOW)


@pytest.mark.parametrize(
    "other",
    [
        book("2026-12-01 15:59", number="b2"),
        book("2026-12-01 12:30", number="b2"),
        book("2026-12-01 00:00", 24, number="b2"),
        book("2026-11-24 14:30", 0.5, every="week", number="b2"),
        book("2026-11-28 13:00", 1.5, every="day", number="b2"),
        book("2026-12-01 09:00", 1, number="b2", zone=NEW_YORK),  # 15:00 in Berlin
    ],
)
def test_bookings_of_a_device_that_meet_are_refused_both_ways(other):
    booking = book("2026-12-01 14:00")
    for one, new in ((booking, other), (other, booking)):
        with pytest.raises(ConfigError, match=rf"boxa/cuda:1 is booked by anna@boxa from .* \({one.id}\)"):
            check_free([one], new, NOW)


def test_bookings_that_touch_are_none_that_meet():
    check_free([book("2026-12-01 14:00")], book("2026-12-01 16:00", number="b2"), NOW)
    check_free([book("2026-12-01 14:00", every="week")], book("2026-12-08 12:00", every="week", number="b2"), NOW)


def test_two_weekly_ones_that_meet_only_while_one_zone_has_changed_its_clocks_are_refused():
    # 14:00 in Berlin is 08:00 in New York, but 09:00 in the weeks of March between their changes.
    berlin = book("2026-12-01 14:00", 1, every="week")
    with pytest.raises(ConfigError, match="from 2027-03-16 14:00"):
        check_free([berlin], book("2026-12-01 09:00", 1, every="week", number="b2", zone=NEW_YORK), NOW)


def test_a_daily_booking_of_a_whole_day_meets_itself():
    with pytest.raises(ConfigError, match="each day that lasts until the next one"):
        check_free([], book("2026-12-01 14:00", 24, every="day"), NOW)


@pytest.mark.parametrize(("name", "is_so"), [("anna", True), ("anna@boxa", True), ("anna@boxb", False), ("ann", False)])
def test_whose_run_it_is(name, is_so):
    assert is_called("anna@boxa", name) is is_so


starts = st.datetimes(datetime(2026, 11, 30), datetime(2027, 12, 31)).map(
    lambda at: at.replace(second=0, microsecond=0)
)
bookings = st.builds(
    lambda at, zone, hours, every: Booking(
        "", "boxa", "cuda:1", "anna", at.replace(tzinfo=zone), hours * HOUR_S, every
    ),
    starts,
    st.sampled_from(ZONES),
    st.integers(1, 20),
    st.sampled_from([None, None, "day", "week"]),
)


@given(st.lists(bookings, max_size=5))
@settings(deadline=None, max_examples=60)
def test_whatever_is_accepted_never_meets_in_ten_years(wanted):
    accepted: list[Booking] = []
    for number, booking in enumerate(wanted):
        new = Booking(f"{number}", *(getattr(booking, name) for name in Booking.__slots__[1:]))
        try:
            check_free(accepted, new, NOW)
        except ConfigError:
            continue
        accepted.append(new)
    times = upcoming(accepted, NOW, NOW + 10 * YEAR_S)
    assert all(one.end <= other.begin for one, other in pairwise(times))


@given(bookings, st.floats(0, 3), st.floats(0, 0.2))
@settings(deadline=None, max_examples=100)
def test_times_are_found_from_wherever_one_looks(booking, years, length):
    after = NOW + years * YEAR_S
    before = after + length * YEAR_S
    every = [time for time in booking.times(0.0, before) if time.end > after]
    assert list(booking.times(after, before)) == every
    wall = [datetime.fromtimestamp(time.begin, UTC).astimezone(booking.start.tzinfo) for time in every]
    assert sum((at.hour, at.minute) != (booking.start.hour, booking.start.minute) for at in wall) <= 2  # left out
