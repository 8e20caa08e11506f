"""Books devices, lists bookings, cancels and changes them."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from deployments.api import Api, NotFoundError, connect
from deployments.lifecycle.schedules import host_timezone
from deployments.runs.find import make_rows
from deployments.runs.submit import find_device, read_queues
from deployments.sharing.acts import Acts
from deployments.sharing.permissions import Target
from deployments.stack.stack import choose_api, serving
from gpu_pools.bookings.booking import LONGEST_S, RHYTHMS, Booking, Occurrence, check_free, parse_start
from gpu_pools.bookings.limit import check_hours
from gpu_pools.bookings.store import BookingStore
from gpu_pools.names import BOOKING_HOURS_VARIABLE, DEVICE_LABEL, HOST_LABEL, asker, host_name, is_called
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import (
    Queue,
    device_tags,
    duration_text,
    host_queues,
    parse_device,
    parse_duration,
)
from gpu_pools.sharing.settings import read_settings, settings_path
from tasks.base.errors import ConfigError

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class BookingRow:
    """A booking as it is listed; the fields are the keys of `--json`.

    Args:
        device: boxa/cuda:1.
        begin, end: of the time that is now, or comes next; ISO 8601 in the booking's zone.
        every: day or week; None: once.
        now: whether it has begun.
        held_up_by: the runs of others that are still on the device.
    """

    id: str
    device: str
    owner: str
    begin: str
    end: str
    zone: str
    every: str | None
    now: bool
    held_up_by: tuple[str, ...] = ()


@contextmanager
def yard_api() -> Iterator[Api]:
    """Yield the server's API; where none is up, that of this home, which `yard run` uses, too.

    Raises:
        ServiceError: it does not start.
    """
    own = choose_api()
    with ExitStack() as stack:
        if own is not None:
            stack.enter_context(serving(own.begin()))
        yield stack.enter_context(connect())


def book(api: Api, device: str, owner: str | None, asked: "Asked", now: float) -> Booking:
    """Keep a device for somebody, and return the booking.

    Args:
        api: of the server.
        device: cuda:1, boxa/cuda:1.
        owner: `anna`, of whatever host, or `anna@boxa`; None: who asks, of whatever host.
        asked: when, for how long.
        now: Unix seconds.

    Raises:
        ConfigError: there is no such time, it is booked already, or the owner would have more than people may book.
        GpuError: there is no such device.
    """
    host, tag = _find_gpu(api, device)
    start, length_s = asked.begin(now), asked.length()
    new = Booking(secrets.token_hex(3), host, tag, owner or asker().partition("@")[0], start, length_s, asked.rhythm())

    acts = Acts.of(api)

    def add(bookings: list[Booking]) -> list[Booking]:
        check_free(bookings, new, now)
        _check_hours(acts, new, now)
        return [*bookings, new]

    with acts.act("book", Target("booking", new.id, new.label), said(new)):
        BookingStore(api.call).edit(new.label, add, now)
    return new


def change(api: Api, wanted: str, asked: "Asked", now: float, *, force: bool = False) -> Booking:
    """Give a booking another time, length or rhythm, and return it.

    Raises:
        ConfigError: there is no such booking, it is somebody else's, the time is booked already, or the owner would
            have more than people may book.
    """
    before = _find(api, wanted)
    after = before
    if asked.start is not None:
        after = replace(after, start=replace(asked, zone=asked.zone or str(before.start.tzinfo)).begin(now))
    if asked.lasts is not None:
        after = replace(after, length_s=asked.length())
    if asked.every is not None:
        after = replace(after, every=asked.rhythm())

    acts = Acts.of(api, force=force)

    def put(bookings: list[Booking]) -> list[Booking]:
        others = _without(bookings, before)
        check_free(others, after, now)
        _check_hours(acts, after, now)
        return [*others, after]

    with acts.act("change", _target(before), said(after)):
        BookingStore(api.call).edit(before.label, put, now)
    return after


def cancel(api: Api, wanted: str, now: float, *, force: bool = False) -> Booking:
    """Give a device back, and return the booking that was.

    Raises:
        ConfigError: there is no such booking, or it is somebody else's.
    """
    found = _find(api, wanted)
    with Acts.of(api, force=force).act("cancel", _target(found)):
        BookingStore(api.call).edit(found.label, lambda bookings: _without(bookings, found), now)
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """When and how long a device is wanted, as a person has written it.

    Args:
        start: `2026-12-01 14:00`, `14:00`, `now`.
        lasts: 2h, 90m, 1d.
        every: day, week; none, or None: once.
        zone: Europe/Berlin; None: this host's.
    """

    start: str | None
    lasts: str | None
    every: str | None = None
    zone: str | None = None

    def begin(self, now: float) -> datetime:
        """Return the beginning.

        Raises:
            ConfigError: there is no such zone or time.
        """
        name = self.zone or host_timezone()
        try:
            zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ConfigError(f"found --timezone {name!r}, need one such as Europe/Berlin or UTC") from exc
        return parse_start(self.start or "now", zone, now)

    def length(self) -> float:
        """Return the length, seconds.

        Raises:
            ConfigError: it is none, or too long.
        """
        seconds = parse_duration(self.lasts or "")
        if seconds > LONGEST_S:
            raise ConfigError(f"found a booking of {self.lasts}, need one of 31d at most")
        return seconds

    def rhythm(self) -> Any:
        """Return what it comes again by.

        Raises:
            ConfigError: it is no day and no week.
        """
        name = None if self.every == "none" else self.every
        if name not in RHYTHMS:
            raise ConfigError(f"found --every {name!r}, need day, week or none")
        return RHYTHMS[name]


def list_bookings(call: Callable[..., Any], now: float) -> list[Occurrence]:
    """Return the time of each booking that is now, or comes next; the first first.

    Args:
        call: (method, path, body) -> the answer of Prefect's API.
        now: Unix seconds.
    """
    found = (next(booking.times(now, _FOREVER), None) for booking in BookingStore(call).read())
    return sorted(filter(None, found), key=lambda one: (one.begin, one.booking.label))


def rows(api: Api, now: float) -> list[BookingRow]:
    """Return the bookings as they are listed, the next first."""
    times = list_bookings(api.call, now)
    running = _on_devices(api) if any(found.begin <= now for found in times) else {}
    return [booking_row(found, now, running) for found in times]


def booking_row(
    found: Occurrence, now: float, running: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> BookingRow:
    """Return a time of a booking as it is listed.

    Args:
        found: the time.
        now: Unix seconds.
        running: (name, owner) of the runs on each device; None: they are not looked at.
    """
    booking, is_now = found.booking, found.begin <= now
    zone = booking.start.tzinfo
    begin, end = (datetime.fromtimestamp(moment, zone).isoformat() for moment in (found.begin, found.end))
    there = (running or {}).get(booking.label, ())
    held_up = tuple(f"{name} of {owner}" for name, owner in there if is_now and not is_called(owner, booking.owner))
    return BookingRow(booking.id, booking.label, booking.owner, begin, end, str(zone), booking.every, is_now, held_up)


def next_of_each(call: Callable[..., Any]) -> list[BookingRow]:
    """Return of each device that is booked the time that is now, or comes next, by device."""
    now = time.time()
    first: dict[str, BookingRow] = {}
    for found in list_bookings(call, now):
        first.setdefault(found.booking.label, booking_row(found, now))
    return [first[label] for label in sorted(first)]


def _on_devices(api: Api) -> dict[str, list[tuple[str, str]]]:
    """Return (name, owner) of the runs that have a device, by boxa/cuda:1."""
    found = list(
        api.pages("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}})
    )
    by_device: dict[str, list[tuple[str, str]]] = {}
    for run, row in zip(found, make_rows(api, found), strict=True):
        labels = run["labels"] or {}
        if HOST_LABEL in labels and row.state != "Waiting":
            for tag in device_tags(str(labels[DEVICE_LABEL])):
                by_device.setdefault(f"{labels[HOST_LABEL]}/{tag}", []).append((row.name, row.owner))
    return by_device


def said(booking: Booking) -> str:
    """Return a booking in a sentence."""
    zone = booking.start.tzinfo
    again = f", every {booking.every}" if booking.every else ""
    length = duration_text(booking.length_s)
    when = f"from {booking.start:%Y-%m-%d %H:%M} {zone} for {length}{again}"
    return f"{booking.label} is booked by {booking.owner} {when}: {booking.id}"


def _find_gpu(api: Api, asked: str) -> tuple[str, str]:
    """Return host and name of a GPU of the yard."""
    host, tag = parse_device(asked)
    if not tag.startswith("cuda:"):
        raise ConfigError(f"found device {asked!r}, need one GPU, such as cuda:1: one is booked, with all of its slots")
    queues = _queues(api)
    find_device(queues, asked, "training")
    hosts = sorted({queue.host for queue in queues if queue.host and queue.device == tag})
    if host is None and len(hosts) > 1:
        raise ConfigError(
            f"found device {asked!r}, which {' and '.join(hosts)} have: need one, such as {hosts[0]}/{tag}"
        )
    return host or hosts[0], tag


def _queues(api: Api) -> Mapping[Queue, Any]:
    """Return the queues of the yard; where no worker has made any, those that this host's would."""
    try:
        return read_queues(api)
    except ConfigError:  # no `yard up` yet
        return host_queues(get_probe().devices(), host_name())


def _find(api: Api, wanted: str) -> Booking:
    known = BookingStore(api.call).read()
    found = [booking for booking in known if booking.id.startswith(wanted)]
    if len(found) != 1 or not wanted:
        have = ", ".join(sorted(booking.id for booking in found or known)) or "none"
        raise ConfigError(f"found {len(found) or 'no'} booking{'s' * (len(found) > 1)} {wanted!r}, have: {have}")
    return found[0]


def _check_hours(acts: Acts, new: Booking, now: float) -> None:
    """Hold a booking against what a person may book in a week, unless an admin asks for it, or with --force."""
    assert acts.api is not None
    if acts.force or any(is_called(asker(), name) for name in acts.admins):
        return
    most = _hours_a_week(acts.api)
    if most is not None:
        check_hours(BookingStore(acts.api.call).read(), new, most, now)


def _hours_a_week(api: Api) -> float | None:
    """Return the hours: as this home's yard.yaml has them; without one, as the server's yard has said at its start."""
    if settings_path().exists():
        return read_settings().bookings.hours_a_week
    try:
        told = api.call("GET", f"/variables/name/{BOOKING_HOURS_VARIABLE}")["value"]
    except NotFoundError:
        return None
    return float(told) if isinstance(told, int | float) else None


def _target(booking: Booking) -> Target:
    return Target("booking", booking.id, booking.label, booking.owner)


def _without(bookings: Sequence[Booking], gone: Booking) -> list[Booking]:
    return [booking for booking in bookings if booking.id != gone.id]
