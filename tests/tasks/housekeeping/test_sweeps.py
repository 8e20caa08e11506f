"""The folders of sweeps go long after their end; one that may go on stays, and the receipt says why."""

import os
import time

import pytest

from tasks.base.file_locks import file_lock
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round

DAY = 86_400.0


def clean(days, **keep):
    return go_round(KeepParams(records=None, checkpoints=None, **keep), time.time() + days * DAY, dry_run=False)


def swept(yard, *ends):
    folder = yard.home / "sweeps" / "toy"
    (folder / "mlflow").mkdir(parents=True)
    (folder / "study.journal").write_bytes(b"x" * 9000)
    for name in ("lock", *ends):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("ends", "keep", "days", "stays"),
    [
        (["ended"], {}, 89, True),
        (["ended"], {}, 91, False),
        (["cancelled"], {}, 91, False),
        ([], {}, 1000, True),
        (["ended"], {"sweeps": "2d"}, 3, False),
        (["ended"], {"sweeps": None}, 1000, True),
    ],
    ids=["young", "ended", "cancelled", "cut-off", "shorter", "for-good"],
)
def test_a_sweep_goes_long_after_its_end(yard, ends, keep, days, stays):
    folder = swept(yard, *ends)
    receipt = clean(days, **keep)
    assert folder.exists() is stays
    assert [entry.bytes > 8000 for entry in receipt.entries if entry.rule == "sweeps"] == [True] * (not stays)


def kept(receipt):
    return [entry.why for entry in receipt.kept if entry.rule == "sweeps"]


def test_the_receipt_says_which_sweep_was_cut_off(yard):
    swept(yard)
    assert kept(clean(91)) == ["was cut off: `yard sweep --resume toy` goes on, `yard sweep --cancel toy` ends it"]


def test_a_sweep_that_is_conducted_or_unsent_stays(yard):
    folder = swept(yard, "ended")
    with file_lock(folder / "lock", "toy"):
        assert kept(clean(91)) == ["a process conducts it"]
    (folder / "mlflow" / "journal.jsonl").write_text('{"op": "tags"}\n')
    assert kept(clean(91)) == ["MLflow does not have all of it yet"]


def test_one_that_went_on_after_its_end_begins_to_age_anew(yard):
    folder = swept(yard, "ended")
    os.utime(folder / "ended", (time.time() + 50 * DAY,) * 2)
    assert not clean(91).entries
    assert folder.exists()
