"""Folders go when their time is over, and no others."""

import os
from uuid import uuid4

import pytest

from gpu_pools.prefect_client import Run
from gpu_pools.process import run_setup
from gpu_pools.worker.cleaner import Cleaner
from tasks.base.workspace import home, run_dir

ENDED = 1_000_000.0
HOURS = 3600.0


class Server:
    """Knows some runs."""

    def __init__(self, *runs: Run) -> None:
        self.runs = {run.id: run for run in runs}
        self.asked: list[list[str]] = []

    def by_id(self, ids):
        self.asked.append(list(ids))
        return {run_id: self.runs[run_id] for run_id in ids if run_id in self.runs}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


def run(state="COMPLETED", keep="12h", ended=ENDED):
    found = Run(str(uuid4()), "splat", "", None, state, "", "", 0.0, {"keep_files": keep} if keep else {}, "", ended)
    folder = run_dir(found.id)
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "checkpoint.pt").write_text("state")
    return found


def clean(server, hours):
    now = [ENDED + hours * HOURS]
    cleaner = Cleaner(server, lambda: now[0])
    cleaner.look()
    return cleaner, now


@pytest.mark.parametrize(
    ("made", "hours", "stays"),
    [
        ({}, 11.9, True),
        ({}, 12.1, False),
        ({"state": "FAILED"}, 12.1, False),
        ({"keep": "2d"}, 12.1, True),
        ({"keep": None}, 10_000, True),
        ({"keep": "for ever"}, 10_000, True),
        ({"state": "RUNNING", "ended": None}, 10_000, True),
        ({"state": "SCHEDULED"}, 10_000, True),
    ],
)
def test_a_folder_goes_so_long_after_the_end_of_its_run(made, hours, stays):
    one = run(**made)
    clean(Server(one), hours)
    assert (home() / "runs" / one.id).exists() is stays


def test_what_the_server_does_not_know_and_what_is_no_run_stays(tmp_path):
    one = run()
    (tmp_path / "runs" / "mine").mkdir()
    clean(Server(), 10_000)
    assert (home() / "runs" / one.id).exists()
    assert (tmp_path / "runs" / "mine").exists()


def test_a_run_that_begins_again_keeps_its_folder():
    one = run()
    lock = run_setup.lock_run(one.id)
    clean(Server(one), 13)
    os.close(lock)
    assert (run_dir(one.id) / "training" / "checkpoint.pt").is_file()


def test_what_was_half_removed_goes_and_a_linked_folder_stays(tmp_path):
    parent, half = run(keep=None), run()
    (run_dir(half.id) / "files").symlink_to(run_dir(parent.id))
    (tmp_path / "runs" / f".removed-{uuid4()}" / "training").mkdir(parents=True)
    clean(Server(parent, half), 13)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [parent.id]
    assert (run_dir(parent.id) / "training" / "checkpoint.pt").is_file()


def test_it_looks_every_ten_minutes_and_asks_once_for_what_stays_for_good():
    forever, later = run(keep=None), run()
    server = Server(forever, later)
    cleaner, now = clean(server, 1)
    cleaner.look()
    now[0] += 601
    cleaner.look()
    assert [set(ids) for ids in server.asked] == [{forever.id, later.id}, {later.id}]
