"""What a worker has started survives it."""

import pytest

from gpu_pools.slots.ledger import Entry, Ledger
from tasks.base.errors import ConfigError, StorageError

ENTRY = Entry("r1", "name", "anna@boxa", "cuda:0.training", "cuda:0", "GPU-1", 0, "running", 1, 100.0, pid=7)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


def test_entries_come_back_as_written():
    first = Ledger("one")
    first.write(ENTRY)
    wide = ENTRY.but(run_id="r2", ending="cancel", tag="cuda:0,cuda:2", more=("GPU-3",))
    first.write(wide)
    first.remove("r1")
    first.close()
    assert Ledger("one").entries() == [wide]
    assert (ENTRY.uuids, wide.uuids, ENTRY.but(uuid="").uuids) == (("GPU-1",), ("GPU-1", "GPU-3"), ())


def test_a_name_is_held_once():
    held = Ledger("one")
    with pytest.raises(ConfigError, match="running worker called 'one'"):
        Ledger("one")
    held.close()
    Ledger("one").close()


def test_a_dead_workers_entries_move_and_a_living_ones_stay():
    dead, living, heir = Ledger("dead"), Ledger("living"), Ledger("heir")
    dead.write(ENTRY)
    living.write(ENTRY.but(run_id="r2"))
    dead.close()
    assert heir.take_over() == [ENTRY]
    assert heir.entries() == [ENTRY]
    assert heir.take_over() == []
    assert heir.knows("r1")
    assert heir.knows("r2")
    assert not heir.knows("r3")


def test_a_damaged_entry_is_named():
    ledger = Ledger("one")
    (ledger.folder / "r1.json").write_text("{")
    with pytest.raises(StorageError, match=r"r1\.json"):
        ledger.entries()


def test_an_entry_of_a_version_before_is_read_without_the_start_of_its_process():
    ledger = Ledger("one")
    ledger.write(ENTRY)
    path = ledger.folder / "r1.json"
    path.write_text(path.read_text().replace('"identity": null', '"create_time": 1.5'))
    assert ledger.entries() == [ENTRY]


@pytest.fixture
def boxb(monkeypatch):
    """The ledger of another host on the same home, whose worker is gone; it has the runs r1 and r2."""
    with monkeypatch.context() as patch:
        patch.setattr("gpu_pools.slots.ledger.host_name", lambda: "boxb")
        ledger = Ledger("boxb")
        ledger.write(ENTRY)
        ledger.write(ENTRY.but(run_id="r2"))
        ledger.close()
    return ledger


def test_the_runs_of_another_hosts_worker_stay_its_own_until_the_host_is_gone(boxb):
    heir = Ledger("boxa")
    assert heir.take_over() == []
    assert heir.take_over_from_hosts(lambda host: host != "boxb", lambda _: True) == []
    assert heir.take_over_from_hosts(lambda host: host == "boxb", lambda run_id: run_id == "r2") == [
        ENTRY.but(run_id="r2")
    ]
    assert not heir.lost("r2")
    assert heir.lost("r1")  # of a run that was here once, and is in the ledger of boxb
    assert not heir.lost("r3")  # nobody's


def test_the_runs_of_a_worker_that_lives_are_not_taken_however_long_nobody_heard_of_its_host(boxb, monkeypatch):
    monkeypatch.setattr("gpu_pools.slots.ledger.host_name", lambda: "boxb")
    living = Ledger("boxb")
    monkeypatch.setattr("gpu_pools.slots.ledger.host_name", lambda: "boxa")
    assert Ledger("boxa").take_over_from_hosts(lambda _: True, lambda _: True) == []
    living.close()
