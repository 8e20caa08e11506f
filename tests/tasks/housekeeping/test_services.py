"""Records of old runs go with their logs, pinned ones stay; logs of services are put aside while they are written."""

import subprocess
import sys
import time

import pytest
from prefect.client.schemas.actions import LogCreate
from prefect.exceptions import ObjectNotFound
from prefect.types._datetime import now

from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round

DAY = 24 * 3600.0


def clean(days, *, dry_run=False, **keep):
    return go_round(KeepParams(**keep), time.time() + days * DAY, dry_run=dry_run)


def known(yard, run_id):
    try:
        return yard.client.read_flow_run(run_id) is not None
    except ObjectNotFound:
        return False


def logs(yard, run_id):
    answer = yard.client.request("POST", "/logs/filter", json={"logs": {"flow_run_id": {"any_": [run_id]}}})
    return answer.json()


def test_a_record_goes_with_its_logs_and_a_pinned_one_stays(yard):
    old, pinned, living = (yard.run(folder=False, **made) for made in ({}, {"tags": ["pinned"]}, {"state": "RUNNING"}))
    for run_id in (old, pinned):
        yard.client.create_logs([LogCreate(name="a", level=20, message="b", timestamp=now("UTC"), flow_run_id=run_id)])
    clean(89)
    clean(91, dry_run=True)
    assert known(yard, old)
    receipt = clean(91)
    assert [known(yard, run_id) for run_id in (old, pinned, living)] == [False, True, True]
    assert any(old in entry.what for entry in receipt.entries)
    deadline = time.monotonic() + 30  # Prefect removes them by a task of its own
    while logs(yard, old) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (len(logs(yard, old)), len(logs(yard, pinned))) == (0, 1)


def test_a_record_stays_until_its_folder_is_gone(yard):
    run_id = yard.run(keep="100d")
    clean(91)
    assert known(yard, run_id)
    clean(101)
    assert not yard.there(run_id)
    assert not known(yard, run_id)


@pytest.fixture
def service(yard):
    """Yield the log of a program that writes a numbered line each millisecond."""
    log = yard.home / "logs" / "prefect-1.log"
    log.parent.mkdir()
    code = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.001)"
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-c", code], stdout=file) as process:
        try:
            yield log
        finally:
            process.kill()


def test_a_log_is_put_aside_while_its_service_writes_on(yard, service):
    while service.stat().st_size < 2000:
        time.sleep(0.05)
    (receipt,) = clean(0, service_logs="1kB").entries
    assert receipt.what == "logs/prefect-1.log"
    old = service.with_name("prefect-1.old.log")
    assert old.stat().st_size >= 2000
    time.sleep(0.2)
    text = service.read_bytes()
    assert text
    assert b"\0" not in text  # it appends: no hole where the old lines were
    last, first = int(old.read_text().split("\n")[-2]), int(text.split(b"\n")[1])
    assert 0 < first - last < 50


def test_a_small_log_stays_as_it_is(yard, service):
    time.sleep(0.1)
    assert clean(0).entries == []
    assert not service.with_name("prefect-1.old.log").exists()
