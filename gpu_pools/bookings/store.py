"""Keeps bookings as variables of Prefect, where all hosts of a yard find them; nobody's change undoes another's.

The bookings of a device are one variable, and each change makes the next one: `trainyard-bookings-boxa-cuda-1-<hash>-7`
after `...-6`. Prefect makes no two variables of a name. So of two people who read the sixth and write at the same
moment, one has written the seventh, and the other is refused, reads it, and tries again.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from gpu_pools.bookings.booking import RHYTHMS, Booking
from gpu_pools.prefect_pages import read_pages
from tasks.base.errors import ConfigError, StorageError

Ask = Callable[[str, str, Any], Any]
"""(method, path, body) -> the answer of Prefect's API."""

_PREFIX = "trainyard-bookings-"
_MAX_CHARACTERS = 5000  # of a variable's value in Prefect, as JSON
_KEPT = timedelta(hours=1)  # a version that somebody may still be about to follow stays so long
_PAST_S = 86_400.0  # a booking that is over stays so long
_TRIES = 50


@dataclass(frozen=True, slots=True)
class _Version:
    device: str  # boxa/cuda:1
    number: int
    id: str
    made: datetime
    value: Any


class BookingStore:
    """The bookings of a yard.

    Args:
        ask: Prefect's API; to write, one that raises ConfigError for what that refuses.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self) -> list[Booking]:
        """Return all bookings, also some that are over.

        Raises:
            StorageError: a variable was changed by hand and holds none.
        """
        newest: dict[str, _Version] = {}
        for version in self._versions(_PREFIX):
            if version.device not in newest or newest[version.device].number < version.number:
                newest[version.device] = version
        return [booking for version in newest.values() for booking in _bookings(version)]

    def edit(self, device: str, change: Callable[[list[Booking]], list[Booking]], now: float) -> None:
        """Change the bookings of a device; `change` is asked again where somebody else was faster.

        Args:
            device: boxa/cuda:1.
            change: returns the bookings as they shall be, or raises.
            now: Unix seconds.

        Raises:
            ConfigError: there are too many.
            StorageError: the variable was changed by hand and holds none.
        """
        wanted: Any = None
        for _ in range(_TRIES):
            versions = sorted(self._of(device), key=lambda version: version.number)
            if versions and versions[-1].value == wanted:
                return  # written, and the answer was lost
            number = versions[-1].number if versions else 0
            before = _bookings(versions[-1]) if versions else []
            wanted = _value(device, [booking for booking in change(before) if not _is_over(booking, now)])
            if versions and versions[-1].value == wanted:
                return
            made = self._write(device, number + 1, wanted)
            if made is not None:
                self._forget(versions, made - _KEPT)
                return
        raise ConfigError(f"the bookings of {device} are changed by others all the time: try again")

    def _write(self, device: str, number: int, value: Any) -> datetime | None:
        """Make a version; return when, None where somebody else has made it."""
        if len(json.dumps(value)) >= _MAX_CHARACTERS:
            raise ConfigError(f"found {len(value['bookings'])} bookings of {device}, as many as fit: cancel some")
        try:
            answer = self._ask("POST", "/variables/", {"name": f"{_name(device)}{number}", "value": value})
        except ConfigError:
            if any(version.number >= number for version in self._of(device)):
                return None
            raise
        return datetime.fromisoformat(answer["created"])

    def _forget(self, versions: Sequence[_Version], before: datetime) -> None:
        for version in versions:
            if version.made < before:
                self._delete(version)

    def _delete(self, version: _Version) -> None:
        try:
            self._ask("DELETE", f"/variables/{version.id}", None)
        except ConfigError:
            if any(other.id == version.id for other in self._of(version.device)):
                raise  # else somebody else has deleted it

    def _of(self, device: str) -> list[_Version]:
        return [version for version in self._versions(_name(device)) if version.device == device]

    def _versions(self, prefix: str) -> Iterator[_Version]:
        body = {"variables": {"name": {"like_": prefix}}}
        for row in read_pages(lambda page: self._ask("POST", "/variables/filter", page), body):
            number = row["name"].rpartition("-")[2]
            if row["name"].startswith(prefix) and number.isdecimal():
                made = datetime.fromisoformat(row["created"])
                yield _Version(_device(row), int(number), row["id"], made, row["value"])


def _name(device: str) -> str:
    """Return the beginning of the names of a device's variables: letters, digits and dashes, different for each."""
    readable = re.sub(r"[^a-z0-9]+", "-", device.lower())
    return f"{_PREFIX}{readable}-{hashlib.sha256(device.encode()).hexdigest()[:8]}-"


def _device(row: Any) -> str:
    with _damage(row["name"]):
        return str(row["value"]["device"])


def _value(device: str, bookings: Sequence[Booking]) -> Any:
    return {"device": device, "bookings": [_as_json(booking) for booking in bookings]}


def _as_json(booking: Booking) -> dict[str, Any]:
    start = booking.start
    known = {"id": booking.id, "owner": booking.owner, "from": start.isoformat(), "zone": str(start.tzinfo)}
    return {**known, "for_s": booking.length_s, **({"every": booking.every} if booking.every else {})}


def _bookings(version: _Version) -> list[Booking]:
    with _damage(f"{_name(version.device)}{version.number}"):
        return [_booking(version.device, row) for row in version.value["bookings"]]


def _booking(device: str, row: Any) -> Booking:
    host, _, tag = device.rpartition("/")
    start = datetime.fromisoformat(row["from"]).astimezone(ZoneInfo(row["zone"]))
    return Booking(row["id"], host, tag, row["owner"], start, float(row["for_s"]), RHYTHMS[row.get("every")])


def _is_over(booking: Booking, now: float) -> bool:
    return booking.every is None and booking.start.timestamp() + booking.length_s < now - _PAST_S


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Say of a variable that somebody has changed by hand where it is."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise StorageError(f"found no bookings in Prefect's variable {name} ({exc!r}): delete it there") from exc
