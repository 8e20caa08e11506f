"""Folders and checkpoints go when their time is over, and no others; what runs, waits or is pinned stays."""

import json
import logging
import os
import time

import pytest

from gpu_pools.process import run_setup
from tasks.base.workspace import run_dir
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round
from tasks.run.postponed import settle_postponed

LOG = logging.getLogger("tests")

HOUR = 3600.0
KEEP = KeepParams(records=None)


def clean(hours, keep=KEEP, *, dry_run=False):
    return go_round(keep, time.time() + hours * HOUR, dry_run=dry_run)


@pytest.mark.parametrize(
    ("made", "hours", "stays"),
    [
        ({"keep": "12h"}, 11.9, True),
        ({"keep": "12h"}, 12.1, False),
        ({"keep": "12h", "state": "FAILED"}, 12.1, False),
        ({"keep": "2d"}, 12.1, True),
        ({}, 10_000, True),
        ({"keep": "for ever"}, 10_000, True),
        ({"keep": "12h", "state": "RUNNING"}, 10_000, True),
        ({"keep": "12h", "state": "SCHEDULED"}, 10_000, True),
        ({"keep": "12h", "tags": ["pinned"]}, 10_000, True),
    ],
)
def test_a_folder_goes_so_long_after_the_end_of_its_run(yard, made, hours, stays):
    run_id = yard.run(**made)
    clean(hours)
    assert yard.there(run_id) is stays


def test_what_was_dropped_into_the_inbox_goes_with_the_folder_of_its_run_and_no_other(yard):
    run_id = yard.run(keep="12h")
    name = yard.client.read_flow_run(run_id).name
    records = {name: json.dumps({"run": run_id}), "other": json.dumps({"run": "other"}), "damaged": "{"}
    for folder, text in records.items():
        (yard.home / "inbox" / "done" / folder / "data").mkdir(parents=True)
        (yard.home / "inbox" / "done" / folder / "item.json").write_text(text)
    clean(11.9)
    assert (yard.home / "inbox" / "done" / name).is_dir()
    receipt = clean(12.1)
    assert sorted(path.name for path in (yard.home / "inbox" / "done").iterdir()) == ["damaged", "other"]
    assert f"inbox/done/{name}" in {entry.what for entry in receipt.entries}


def test_a_run_without_a_time_of_its_own_has_that_of_the_round(yard):
    run_id = yard.run()
    clean(25, KEEP.model_copy(update={"files": "1d"}))
    assert not yard.there(run_id)


def test_what_the_server_does_not_know_and_what_is_no_run_stays(yard):
    unknown = "11111111-2222-4333-8444-555555555555"
    run_dir(unknown)
    (yard.home / "runs" / "mine").mkdir()
    clean(10_000, KEEP.model_copy(update={"files": "1d"}))
    assert yard.there(unknown)
    assert yard.there("mine")


def test_a_run_that_a_process_holds_keeps_its_folder(yard):
    run_id = yard.run(keep="12h")
    lock = run_setup.lock_run(run_id)
    receipt = clean(13)
    os.close(lock)
    assert (yard.home / "runs" / run_id / "training" / "checkpoint.pt").is_file()
    assert [(entry.what, entry.why) for entry in receipt.kept] == [(run_id, "a process holds it")]


def test_what_a_waiting_run_reads_stays(yard):
    read = yard.run(keep="12h")
    yard.run("SCHEDULED", data=str(yard.home / "runs" / read / "split"), folder=False)
    assert "reads it" in clean(13).kept[0].why
    assert yard.there(read)


def test_a_pipelines_folder_stays_while_a_stage_lives_and_a_link_goes_alone(yard):
    pipeline, stage = yard.run(keep="12h"), yard.run("RUNNING")
    (yard.home / "runs" / stage / "files").symlink_to(yard.home / "runs" / pipeline)
    clean(13)
    assert yard.there(pipeline)
    yard.state(stage, "COMPLETED")
    other = yard.run()
    (yard.home / "runs" / stage / "files").unlink()
    (yard.home / "runs" / pipeline / "files").symlink_to(yard.home / "runs" / other)
    clean(13)
    assert not yard.there(pipeline)
    assert (yard.home / "runs" / other / "training" / "checkpoint.pt").is_file()


def test_what_was_half_removed_goes(yard):
    (yard.home / "runs" / ".removed-1" / "training").mkdir(parents=True)
    clean(0)
    assert list((yard.home / "runs").iterdir()) == []


def test_a_run_whose_report_is_postponed_stays(yard):
    run_id = yard.run(keep="12h")
    settle_postponed(run_id, "MLflow is away", "report_classifier", {}, LOG)
    assert "MLflow does not have" in clean(13).kept[0].why
    assert yard.there(run_id)


def test_what_mlflow_does_not_have_yet_stays(yard):
    run_id = yard.run(keep="12h")
    training = yard.home / "runs" / run_id / "training"
    (training / "outbox" / "a").mkdir(parents=True)
    assert "MLflow does not have" in clean(13).kept[0].why
    (training / "outbox" / "a").rmdir()
    (training / "journal.jsonl").write_text("0123456789")
    (training / "sent.json").write_text('{"offset": 9}')
    assert "MLflow does not have" in clean(13).kept[0].why
    (training / "sent.json").write_text('{"offset": 10}')
    clean(13)
    assert not yard.there(run_id)


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED"])
def test_of_the_checkpoints_of_an_ended_run_the_best_stays(yard, state):
    run_id = yard.run(state)
    training = yard.home / "runs" / run_id / "training"
    (training / "best-0003.pt").write_text("best")
    (training / "epochs").mkdir()
    (training / "epochs" / "epoch-0001.pt").write_text("one")
    clean(29 * 24)
    assert (training / "checkpoint.pt").is_file()
    clean(31 * 24)
    assert sorted(path.name for path in training.rglob("*.pt")) == ["best-0003.pt", "best.pt", "last.pt"]


def test_a_run_that_waits_for_its_next_attempt_keeps_its_checkpoint(yard):
    run_id = yard.run("FAILED")
    yard.state(run_id, "SCHEDULED")
    clean(31 * 24)
    assert (yard.home / "runs" / run_id / "training" / "checkpoint.pt").is_file()


def test_a_dry_run_changes_nothing_and_says_the_same(yard):
    yard.run(keep="12h")
    yard.run("FAILED")
    held = yard.run(keep="12h")
    lock = run_setup.lock_run(held)
    cached = yard.home / "cache" / "resize-v1-8" / "aa" / f".{'b' * 32}.rgb.0123456789abcdef"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x" * 9000)
    before = sorted(yard.home.rglob("runs/**"))
    planned = clean(31 * 24, dry_run=True)
    assert sorted(yard.home.rglob("runs/**")) == before
    done = clean(31 * 24)
    assert [(e.rule, e.what, e.bytes) for e in planned.entries] == [(e.rule, e.what, e.bytes) for e in done.entries]
    assert done.bytes > 0
    assert {entry.what for entry in planned.kept} == {entry.what for entry in done.kept} == {held}
    os.close(lock)
