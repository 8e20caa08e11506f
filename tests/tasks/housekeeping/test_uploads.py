"""Data from the inbox go with the files of their run, what was rejected after a month; what is read stays."""

import os
import time

import pytest

from gpu_pools.process import run_setup
from tasks.base.workspace import write_json
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round

HOUR = 3600.0


def clean(hours, **keep):
    keep = KeepParams(records=None, checkpoints=None, **keep)
    return go_round(keep, time.time() + hours * HOUR, dry_run=False)


def dropped(yard, run_id):
    folder = yard.home / "inbox" / "done" / f"splatting-room-{run_id[:8]}"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "room.mp4").write_bytes(b"x" * 9000)
    write_json(folder / "item.json", {"run": run_id, "state": "submitted"})
    return folder


@pytest.mark.parametrize(
    ("made", "keep", "hours", "stays"),
    [
        ({"keep": "12h"}, {}, 11, True),
        ({"keep": "12h"}, {}, 13, False),
        ({}, {}, 10_000, True),
        ({}, {"uploads": "1d"}, 25, False),
        ({"keep": "12h", "state": "RUNNING"}, {}, 10_000, True),
        ({"keep": "12h", "tags": ["pinned"]}, {}, 10_000, True),
    ],
)
def test_an_upload_goes_with_the_files_of_its_run(yard, made, keep, hours, stays):
    folder = dropped(yard, yard.run(**made))
    receipt = clean(hours, **keep)
    assert folder.exists() is stays
    assert [entry.bytes > 8000 for entry in receipt.entries if entry.rule == "uploads"] == [True] * (not stays)


def test_what_another_run_reads_or_a_process_holds_stays(yard):
    read, held = dropped(yard, yard.run(keep="12h")), yard.run(keep="12h")
    yard.run("SCHEDULED", data=str(read / "data"), folder=False)
    other, lock = dropped(yard, held), run_setup.lock_run(held)
    receipt = clean(13)
    os.close(lock)
    assert read.exists()
    assert other.exists()
    said = [entry.why for entry in receipt.kept if entry.rule == "uploads"]
    assert sorted(why.endswith("reads it") for why in said) == [False, True]
    assert "a process holds its run" in said


def test_what_was_rejected_goes_after_a_month(yard):
    folder = yard.home / "inbox" / "rejected" / "bomb"
    (folder / "data").mkdir(parents=True)
    (folder / "why.txt").write_text("too large")
    clean(29 * 24)
    assert folder.exists()
    clean(31 * 24)
    assert not folder.exists()
    assert not list((yard.home / "runs").glob(".removed-*"))


def test_what_is_being_taken_stays(yard):
    folder = yard.home / "inbox" / "done" / "new"
    folder.mkdir(parents=True)
    clean(10_000, uploads="1d")
    assert folder.exists()
