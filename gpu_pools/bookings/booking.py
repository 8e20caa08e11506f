"""A booking: a device kept for somebody, once or again and again, by the clocks of a time zone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from heapq import merge
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

from tasks.base.errors import ConfigError

Every = Literal["day", "week"]

RHYTHMS: Mapping[str | None, Every | None] = {None: None, "day": "day", "week": "week"}
"""Every what people write."""

_DAYS: Mapping[Every, int] = {"day": 1, "week": 7}
_DAY_S = 86_400.0
LONGEST_S = 31 * _DAY_S
FURTHEST = timedelta(days=2 * 366)
"""A booking lasts no longer, and begins no later from now on."""

_LOOK_AHEAD_S = 12 * 366 * _DAY_S  # zones change their rules for years to come, Morocco's each year by the moon


@dataclass(frozen=True, slots=True)
class Booking:
    """A device kept for somebody; of one that comes again each time is by the clock of its zone.

    Args:
        id: six digits and letters.
        host, device: boxa, cuda:1.
        owner: `anna`, of whatever host, or `anna@boxa`.
        start: of the first time, in its zone.
        length_s: seconds that pass, whatever the clocks do.
        every: None: once.
    """

    id: str
    host: str
    device: str
    owner: str
    start: datetime
    length_s: float
    every: Every | None = None

    @property
    def label(self) -> str:
        """The device as people write it: boxa/cuda:1."""
        return f"{self.host}/{self.device}"

    def times(self, after: float, before: float) -> Iterator["Occurrence"]:
        """Yield each time that ends after `after` and begins by `before`, Unix seconds, in order."""
        first = self.start.timestamp()
        days = _DAYS[self.every] if self.every else 0
        n = max(0, int((after - self.length_s - first) / (days * _DAY_S)) - 1) if days else 0
        while (begin := self._begin(n * days)) <= before:
            if begin + self.length_s > after:
                yield Occurrence(self, begin, begin + self.length_s)
            if not days:
                return
            n += 1

    def _begin(self, days: int) -> float:
        """Return when the time so many days after the first begins, Unix seconds.

        A time that the clocks leave out is as long after the last one before as it says: 03:30 for 02:30. Of one
        that comes twice the first is meant.
        """
        if days == 0:
            return self.start.timestamp()
        clock = self.start.replace(tzinfo=None, fold=0) + timedelta(days=days)
        return clock.replace(tzinfo=self.start.tzinfo).timestamp()


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time of a booking, Unix seconds."""

    booking: Booking
    begin: float
    end: float


def upcoming(bookings: Sequence[Booking], after: float, before: float) -> list[Occurrence]:
    """Return the times of all bookings between two moments, Unix seconds, the first first."""
    return list(merge(*(booking.times(after, before) for booking in bookings), key=lambda time: time.begin))


def check_free(bookings: Sequence[Booking], new: Booking, now: float) -> None:
    """Refuse a booking that meets another one of its device, or itself, at any of their times.

    Args:
        bookings: of the device; none meets another.
        new: not among them.
        now: Unix seconds.

    Raises:
        ConfigError: it does; says with which, and when.
    """
    for one, other in pairwise(upcoming([*bookings, new], now, now + _LOOK_AHEAD_S)):
        if one.end <= other.begin:
            continue
        if one.booking == other.booking:
            raise ConfigError(f"found a booking of {one.booking.label} each {new.every} that lasts until the next one")
        taken = other if one.booking == new else one
        raise ConfigError(f"{new.label} is booked by {taken.booking.owner} {span(taken)} ({taken.booking.id})")


def span(time: Occurrence) -> str:
    """Return when a time begins and ends, by the clocks of its zone: from 2026-12-01 14:00 to 16:00 Europe/Berlin."""
    zone = time.booking.start.tzinfo
    begin, end = (datetime.fromtimestamp(moment, zone) for moment in (time.begin, time.end))
    until = f"{end:%H:%M}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M}"
    return f"from {begin:%Y-%m-%d %H:%M} to {until} {zone}"


def parse_start(text: str, zone: ZoneInfo, now: float) -> datetime:
    """Return the moment that somebody has written, in a zone.

    Args:
        text: `2026-12-01 14:00`, by the clocks of the zone; with an offset, such as +01:00, by that; `14:00`, the next
            one; `now`.
        zone: of the booking.
        now: Unix seconds.

    Raises:
        ConfigError: it is none of these, it is past or too far away, or the clocks of the zone leave it out or show it
            twice.
    """
    here = datetime.fromtimestamp(now, zone)
    if text.strip() == "now":
        return here.replace(microsecond=0)
    at = _parsed(text.strip(), here)
    found = at.astimezone(zone) if at.tzinfo else _on_clock(at, zone)
    if found.timestamp() < now or found - here > FURTHEST:
        raise ConfigError(f"found the time {found:%Y-%m-%d %H:%M} {zone}, need one to come, within two years")
    return found


def _parsed(text: str, here: datetime) -> datetime:
    if len(text) <= len("14:00"):
        text = f"{here:%Y-%m-%d} {text.zfill(5)}"
        at = _iso(text)
        return at if at > here.replace(tzinfo=None) else at + timedelta(days=1)
    return _iso(text)


def _iso(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f'found the time {text!r}, need one such as "2026-12-01 14:00", "14:00" or now') from exc


def _on_clock(at: datetime, zone: tzinfo) -> datetime:
    """Return when the clocks of a zone show a time, if they do so once."""
    first, second = (at.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    shown = first.astimezone(UTC).astimezone(zone)
    if shown.replace(tzinfo=None) != at:
        raise ConfigError(
            f"found the time {at:%Y-%m-%d %H:%M}, which the clocks of {zone} leave out: "
            f"{shown:%H:%M} comes in its place"
        )
    offsets = [one.isoformat()[-6:] for one in (first, second)]
    raise ConfigError(
        f"found the time {at:%Y-%m-%d %H:%M}, which comes twice in {zone}: write {at:%H:%M}{offsets[0]} for the first, "
        f"{at:%H:%M}{offsets[1]} for the second"
    )
