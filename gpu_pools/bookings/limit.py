"""Bounds how many hours of GPUs a person may have booked in a week."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta, tzinfo

from gpu_pools.bookings.booking import Booking, Occurrence, upcoming
from gpu_pools.names import person_of
from tasks.base.errors import ConfigError

_AHEAD_S = 366 * 86_400.0
"""Of a booking that comes again each week is looked at so far ahead."""

_WEEK = timedelta(days=7)


def check_hours(bookings: Sequence[Booking], new: Booking, most: float, now: float) -> None:
    """Refuse a booking with which its owner would have more of a yard's GPUs in a week than anybody may book.

    A week is from Monday to Monday by the clocks of the new booking. All GPUs count together.

    Args:
        bookings: of the yard.
        new: replaces the one of its id.
        most: hours.
        now: Unix seconds.

    Raises:
        ConfigError: it would; says in which week, and how many.
    """
    person, zone = person_of(new.owner), new.start.tzinfo
    others = [one for one in bookings if person_of(one.owner) == person and one.id != new.id]
    first = _midnight(_monday(now, zone), zone)
    last = max(now, new.start.timestamp()) + (_AHEAD_S if new.every else new.length_s)
    hours: dict[date, float] = defaultdict(float)
    for found in upcoming([*others, new], first, last + _WEEK.total_seconds()):
        for week, seconds in _by_week(found, zone):
            hours[week] += seconds / 3600
    for found in new.times(first, last):
        for week, _ in _by_week(found, zone):
            if hours[week] > most + 1e-6:
                raise ConfigError(
                    f"found {hours[week]:.4g} h of {person} in the week from Monday {week}, with this booking; need "
                    f"{most:.4g} h at most (hours_a_week of bookings in yard.yaml)"
                )


def _by_week(found: Occurrence, zone: tzinfo | None) -> Iterator[tuple[date, float]]:
    """Yield the Monday of each week that a time touches, and how many seconds of it are in that week."""
    begin = found.begin
    while begin < found.end:
        week = _monday(begin, zone)
        end = min(found.end, _midnight(week + _WEEK, zone))
        yield week, end - begin
        begin = end


def _monday(moment: float, zone: tzinfo | None) -> date:
    day = datetime.fromtimestamp(moment, zone).date()
    return day - timedelta(days=day.weekday())


def _midnight(day: date, zone: tzinfo | None) -> float:
    return datetime.combine(day, time.min, zone).timestamp()
