"""What is missing of a schedule's runs, and what a server's log says: from made-up facts."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from deployments.services.service import ServiceError
from deployments.stack.background import local_faults, named_server
from deployments.stack.draining import drain_note
from deployments.stack.service_log import failing
from deployments.stack.undone import GRACE, missing_runs

NOW = datetime(2026, 11, 27, 12, 0, 30, tzinfo=UTC)
RULES = {"min_runs": 3, "max_runs": 100, "min_scheduled_time": "PT1H", "max_scheduled_time": "P100D"}
MINUTELY = {"cron": "* * * * *", "timezone": None, "day_or": True}
NIGHTLY = {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "day_or": True}


def minutes(first, last):
    return [NOW.replace(second=0) + timedelta(minutes=n) for n in range(first, last + 1)]


def nights(n_nights):
    return [datetime(2026, 11, 28 + n, 1, tzinfo=UTC) for n in range(n_nights)]


@pytest.mark.parametrize(
    ("schedule", "have"),
    [
        (MINUTELY, minutes(-2, 58)),
        (MINUTELY, minutes(-2, 61)),
        (NIGHTLY, nights(3)),
        ({"interval": 3600.0, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}, minutes(60, 60) * 3),
        ({"cron": "0 0 29 2 *", "timezone": "UTC"}, []),  # more than a hundred days ahead
        ({"rrule": "DTSTART:20251101T000000Z\nRRULE:FREQ=DAILY;UNTIL=20260101T000000Z", "timezone": "UTC"}, []),
        ({"rrule": "DTSTART:20261101T000000Z\nRRULE:FREQ=DAILY;UNTIL=20261129T000000Z", "timezone": "UTC"}, None),
    ],
)
def test_nothing_is_missing_where_the_scheduler_works(schedule, have):
    if have is None:
        have = [datetime(2026, 11, 28, tzinfo=UTC), datetime(2026, 11, 29, tzinfo=UTC)]
    assert missing_runs(schedule, have, NOW, RULES) == []


@pytest.mark.parametrize(
    ("schedule", "have", "first"),
    [
        (MINUTELY, [], minutes(1, 1)[0]),
        (MINUTELY, minutes(-2, 50), minutes(51, 51)[0]),  # it died ten minutes ago
        (NIGHTLY, [], nights(1)[0]),
        (NIGHTLY, nights(2), nights(3)[2]),  # it died before last night
        ({"rrule": "FREQ=DAILY", "timezone": "UTC"}, [], None),
    ],
)
def test_the_first_run_that_is_missing_is_named(schedule, have, first):
    missing = missing_runs(schedule, have, NOW, RULES)
    assert missing
    assert min(missing) > NOW
    if first:
        assert missing[0] == first


def test_a_run_that_has_just_started_is_not_missing():
    assert GRACE > timedelta(minutes=2)
    at_night = datetime(2026, 11, 28, 1, 0, 20, tzinfo=UTC)
    assert missing_runs(NIGHTLY, nights(3), at_night, RULES) == []


ENTRY = """\
{at}.818 | ERROR   | {logger} - {text}
Traceback (most recent call last):
  File "prefect/server/services/scheduler.py", line 186, in schedule_deployments
    return await self.run()
           ^^^^^^^^^^^^^^^^
{reason}
"""
DOCKET = {
    "logger": "docket.dependencies._perpetual",
    "text": "↩ [12ms] schedule_deployments{}",
    "reason": "sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement",
}
SCHEDULER = {
    "logger": "prefect.server.services.scheduler",
    "text": "Error scheduling deployment UUID('5e75a166').",
    "reason": "ValueError: tzinfo must be of type ZoneInfo (exactly), got Timezone('UTC')",
}


def log_of(folder, entries, written):
    log = folder / "prefect-4200.log"
    log.write_text("a banner\n" + "".join(ENTRY.format(at=at, **what) for at, what in entries))
    os.utime(log, (written.timestamp(), written.timestamp()))
    return log


def faults(folder, entries, *, now="2026-11-27 12:00:30", since="2026-11-26 00:00:00"):
    at = datetime.fromisoformat(now)
    return failing(log_of(folder, entries, at), datetime.fromisoformat(since), at)


def test_a_service_that_fails_each_time_is_named_with_its_reason(tmp_path):
    (fault,) = faults(tmp_path, [("11:58:02", DOCKET), ("11:59:02", DOCKET), ("12:00:02", DOCKET)])
    assert fault == (
        "Prefect's service schedule_deployments has failed 3 times since 11:58, last at 12:00:02: "
        "sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; "
        f"see {tmp_path}/prefect-4200.log"
    )
    (fault,) = faults(tmp_path, [("11:59:17", SCHEDULER), ("12:00:17", SCHEDULER)])
    assert "service scheduler has failed 2 times" in fault
    assert "ValueError: tzinfo must be of type ZoneInfo" in fault


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [("12:00:02", DOCKET)],  # once: a database that was busy
        [("11:51:02", DOCKET), ("11:52:02", DOCKET), ("11:57:02", DOCKET)],  # works again
        [("12:00:02", {**DOCKET, "logger": "prefect.server.api.server"})] * 3,  # of a request
        [("12:00:02", DOCKET), ("12:00:03", SCHEDULER)],
    ],
)
def test_what_does_not_go_on_is_no_fault(tmp_path, entries):
    assert faults(tmp_path, entries) == []


def test_a_log_that_goes_on_after_midnight_is_read_right(tmp_path):
    entries = [("23:59:02", DOCKET), ("00:00:02", DOCKET)]
    (fault,) = faults(tmp_path, entries, now="2026-11-27 00:00:30")
    assert "failed 2 times since 23:59" in fault
    assert faults(tmp_path, [("12:00:02", DOCKET), ("11:00:02", DOCKET)]) == []  # of the day before


def test_what_a_server_before_this_one_has_written_does_not_count(tmp_path):
    entries = [("11:58:02", DOCKET), ("11:59:02", DOCKET)]
    assert faults(tmp_path, entries, since="2026-11-27 11:59:30") == []
    assert failing(tmp_path / "no.log", datetime.min, datetime.now()) == []


def test_removing_old_rows_has_its_own_rhythm(tmp_path):
    hourly = {**DOCKET, "text": "↩ [12ms] vacuum_old_events{}"}
    (fault,) = faults(tmp_path, [("10:10:00", hourly), ("11:10:00", hourly)])
    assert "vacuum_old_events has failed 2 times since 10:10" in fault


def test_the_server_of_this_home_is_not_one_elsewhere(monkeypatch):
    record = {"prefect": "http://127.0.0.1:4200"}
    for url, found in (
        ("", None),
        ("http://127.0.0.1:4200/api", None),
        ("http://localhost:4200/api/", None),
        ("https://yard.lab/api/", "https://yard.lab/api"),
    ):
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert named_server(record) == found
    assert named_server({}) == "https://yard.lab/api"


@pytest.mark.parametrize("value", [None, 7, "", "soon", ["2026"], {"a": 1}])
def test_a_time_of_draining_that_makes_no_sense_is_left_out(value):
    note = drain_note(lambda method, path, body: [{"value": value}])
    assert note == "the yard drains: what runs goes on, what waits starts after the next `yard up`"


@pytest.mark.parametrize(("ago_s", "asks"), [(20, False), (GRACE.total_seconds() + 20, True)])
def test_a_machine_that_has_just_woken_up_has_time_to_catch_up(ago_s, asks):
    woke = (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat(timespec="seconds")
    asked = []

    def call(method, path, body):
        asked.append(path)
        raise ServiceError("asked")

    record = {"prefect": "http://127.0.0.1:9", "woke": woke}
    if asks:
        with pytest.raises(ServiceError, match="asked"):
            local_faults(record, call)
    else:
        assert local_faults(record, call) == []
    assert bool(asked) is asks
