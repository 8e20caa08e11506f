"""What `yard sweep --list` says of sweeps in each state."""

import json

import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.sweeps.listing import list_sweeps
from deployments.sweeps.record import call_cancelled, call_ended, lock_of, write_sweep
from tasks.base.file_locks import file_lock
from tests.deployments.sweeps.fake_yard import FakeYard, KilledError, sweep_all, sweep_of


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def sweep():
    made = sweep_of(8, 2)
    write_sweep(made)
    lock_of(made).touch()
    return made


def only():
    (row,), faults = list_sweeps()
    assert not faults
    return row


def test_trials_are_counted_as_the_journal_has_them_and_nothing_is_written(sweep):
    study, _ = sweep_all(sweep.folder, sweep, FakeYard())
    before = {path.name: path.read_bytes() for path in sweep.folder.iterdir()}
    row = only()
    assert row.begun == row.n_trials == 8 == row.complete + row.pruned
    assert row.pruned > 0
    assert (row.running, row.failed) == (0, 0)
    best = study.best()
    assert (row.best, row.best_trial) == (best.value, best.number)
    assert before == {path.name: path.read_bytes() for path in sweep.folder.iterdir()}


def test_the_state_is_that_of_this_moment(sweep):
    assert only().state == "cut off"
    with file_lock(lock_of(sweep), "toy"):
        assert only().state == "running"
    call_ended(sweep)
    assert only().state == "ended"
    write_sweep(sweep)  # it goes on
    assert only().state == "cut off"
    call_cancelled(sweep)
    assert only().state == "cancelled"


@pytest.mark.parametrize("die_at", [2, 3, 9])
def test_a_killed_sweep_is_listed_with_the_trials_that_live(sweep, die_at):
    with pytest.raises(KilledError):
        sweep_all(sweep.folder, sweep, FakeYard(die_at=die_at))
    row = only()
    assert row.begun >= row.running >= 1
    assert row.best is None


def test_a_sweep_that_cannot_be_read_hides_no_other(sweep, home):
    (home / "sweeps" / "odd").mkdir()
    (home / "sweeps" / "odd" / "sweep.json").write_text("{}")
    shown = CliRunner().invoke(app, ["sweep", "--list", "--json"])
    assert [row["name"] for row in json.loads(shown.stdout)] == ["toy"]
    assert "need the record of a sweep" in shown.stderr


def test_the_table_says_whose_what_and_how_far(sweep):
    shown = CliRunner().invoke(app, ["sweep", "--list"]).stdout
    assert shown.splitlines()[1].split()[:8] == ["toy", "classification", "anna@boxa", "cut", "off", "0", "of", "8"]
    assert (
        "no sweeps; `yard sweep FLOW"
        in CliRunner().invoke(app, ["sweep", "--list"], env={"TRAINYARD_HOME": "/nowhere"}).stdout
    )
