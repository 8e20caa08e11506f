"""Bookings are kept in Prefect; whoever writes at the same moment as another loses nothing."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gpu_pools.bookings.booking import Booking, check_free
from gpu_pools.bookings.store import BookingStore
from tasks.base.errors import ConfigError, StorageError

START = datetime(2026, 12, 1, 14, 0, tzinfo=ZoneInfo("Europe/Berlin"))
NOW = START.timestamp() - 86_400
BOOKING = Booking("a1", "box_a.lab", "cuda:1", "anna@boxa", START, 7200.0)
LABEL = BOOKING.label


class Variables:
    """Prefect's variables, by the three calls of the store; no two have one name."""

    def __init__(self):
        self.rows = []
        self.time = datetime.now(UTC)
        self._lock = threading.Lock()
        self.lose_answers = 0

    def __call__(self, method, path, body):
        with self._lock:
            if method == "DELETE":
                self.rows = [row for row in self.rows if not path.endswith(row["id"])]
                return None
            if path == "/variables/filter":
                rows = [row for row in self.rows if body["variables"]["name"]["like_"] in row["name"]]
                return rows[body["offset"] : body["offset"] + body["limit"]]
            if any(row["name"] == body["name"] for row in self.rows):
                raise ConfigError("a variable of that name exists")
            self.rows.append({"id": str(uuid.uuid4()), "created": self.time.isoformat(), **body})
            if self.lose_answers:
                self.lose_answers -= 1
                raise ConfigError("the answer was lost")
            return self.rows[-1]


@pytest.fixture
def variables():
    return Variables()


@pytest.fixture
def store(variables):
    return BookingStore(variables)


def adding(*new):
    return lambda bookings: [*bookings, *new]


def test_what_is_written_is_read(store):
    weekly = replace(BOOKING, id="b2", start=START.replace(fold=1), every="week")
    store.edit(LABEL, adding(BOOKING, weekly), NOW)
    store.edit("boxb/cuda:0", adding(replace(BOOKING, host="boxb", device="cuda:0")), NOW)
    assert sorted(booking.label for booking in store.read()) == ["box_a.lab/cuda:1", "box_a.lab/cuda:1", "boxb/cuda:0"]
    assert [booking for booking in store.read() if booking.label == LABEL] == [BOOKING, weekly]
    store.edit(LABEL, lambda bookings: bookings[1:], NOW)
    assert [booking for booking in store.read() if booking.label == LABEL] == [weekly]


def test_the_second_of_a_time_that_comes_twice_stays_the_second(store):
    second = datetime(2027, 10, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    store.edit(LABEL, adding(replace(BOOKING, start=second)), NOW)
    (found,) = store.read()
    assert found.start.isoformat() == "2027-10-31T02:30:00+01:00"


def test_of_many_who_book_the_same_time_at_once_one_gets_it(store):
    def book(number):
        new = replace(BOOKING, id=f"x{number}")

        def add(bookings):
            check_free(bookings, new, NOW)
            return [*bookings, new]

        try:
            store.edit(LABEL, add, NOW)
        except ConfigError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(book, range(8))) == 1
    assert len(store.read()) == 1


def test_of_many_who_write_at_once_nobody_is_lost(store):
    def add(number):
        store.edit(LABEL, adding(replace(BOOKING, id=f"x{number}")), NOW)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    assert sorted(booking.id for booking in store.read()) == sorted(f"x{number}" for number in range(16))


def test_an_answer_that_was_lost_books_once(store, variables):
    variables.lose_answers = 1

    def add(bookings):
        check_free(bookings, BOOKING, NOW)
        return [*bookings, BOOKING]

    store.edit(LABEL, add, NOW)
    assert store.read() == [BOOKING]


def test_old_versions_and_bookings_that_are_over_go(store, variables):
    store.edit(LABEL, adding(BOOKING), NOW)
    variables.time += timedelta(hours=2)
    store.edit(LABEL, adding(replace(BOOKING, id="b2", every="day")), NOW)
    assert len(variables.rows) == 1  # the first version: a writer of two hours ago is gone
    store.edit(LABEL, adding(replace(BOOKING, id="c3", every="week")), NOW + 3 * 86_400)
    assert [booking.id for booking in store.read()] == ["b2", "c3"]


def test_too_many_bookings_are_refused(store):
    many = [replace(BOOKING, id=f"x{number}") for number in range(60)]
    with pytest.raises(ConfigError, match="found 60 bookings of box_a.lab/cuda:1, as many as fit: cancel some"):
        store.edit(LABEL, adding(*many), NOW)
    assert store.read() == []


@pytest.mark.parametrize("value", [None, "x", {"device": LABEL}, {"device": LABEL, "bookings": [{"id": "a"}]}])
def test_a_variable_that_was_changed_by_hand_is_said(store, variables, value):
    store.edit(LABEL, adding(BOOKING), NOW)
    variables.rows[0]["value"] = value
    with pytest.raises(
        StorageError, match="found no bookings in Prefect's variable trainyard-bookings-box-a-lab-cuda-1"
    ):
        store.read()
