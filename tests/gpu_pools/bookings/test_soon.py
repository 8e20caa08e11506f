"""Who has booked is told before, once, and so is whose training will make way."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpu_pools.bookings.booking import Booking
from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.soon import BookingsSoon
from gpu_pools.bookings.store import BookingStore
from gpu_pools.sharing.notices import read_waiting
from gpu_pools.sharing.settings import SettingsReader, settings_path
from gpu_pools.slots.ledger import Entry

NOW = 1_800_000_000.0
NOTICES = "notices: {to: {all: {webhook_file: hook}}}\n"


@pytest.fixture
def soon(client, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    settings_path().write_text(NOTICES)
    return BookingsSoon(BookingReader(client, "boxa", lambda: NOW), SettingsReader(), lambda: NOW)


def book(client, in_s):
    start = datetime.fromtimestamp(NOW + in_s, ZoneInfo("UTC"))
    booking = Booking("a1", "boxa", "cuda:1", "carl", start, 7200.0)
    BookingStore(client.call).edit(booking.label, lambda _: [booking], NOW)


def entry(name, tag="cuda:1", owner="anna@boxa", queue="cuda.training"):
    return Entry(name, name, owner, queue, tag, "uuid", 0, "running", 1, NOW)


def told():
    return {(notice.kind, notice.run_name, notice.owner) for notice in read_waiting()}


def test_who_has_booked_and_who_makes_way_are_told_once(client, soon):
    book(client, 600)
    runs = [
        entry("theirs"),
        entry("own", owner="carl@boxb"),
        entry("elsewhere", tag="cuda:0"),
        entry("answers", queue="cuda.inference"),
    ]
    for _ in range(2):
        soon.look(runs)
    assert told() == {("booking-soon", "", "carl"), ("stopping-soon", "theirs", "anna@boxa")}
    texts = " ".join(notice.text for notice in read_waiting())
    assert "boxa/cuda:1 is booked for carl from 2027-01-15 08:10 to 10:10 UTC, in 10 min." in texts
    assert "theirs of anna@boxa saves its state in about 10 min and waits: boxa/cuda:1 is booked by carl" in texts


@pytest.mark.parametrize("in_s", [-60, 1800], ids=["begun", "far"])
def test_at_other_times_nobody_is(client, soon, in_s):
    book(client, in_s)
    soon.look([entry("theirs")])
    assert told() == set()


def test_where_nobody_makes_way_only_who_has_booked_is_told(client, soon):
    settings_path().write_text(NOTICES + "bookings: {overstay: wait}\n")
    book(client, 600)
    soon.look([entry("theirs")])
    assert told() == {("booking-soon", "", "carl")}
