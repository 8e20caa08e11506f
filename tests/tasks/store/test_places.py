import pytest

from tasks.base.errors import ConfigError
from tasks.store import places
from tasks.store.places import Needs
from tasks.store.setting import SHARED_DISK, hosts_share_a_disk

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", "/srv/boxa")


def test_a_path_of_one_home_is_read_in_another(monkeypatch):
    given = {"dataset": "/srv/boxa/runs/1-2/split", "train": {"weights": ["/srv/boxa/runs/3/best.pt", "/srv/other"]}}
    carried = places.portable(given)
    assert carried == {"dataset": "home:/runs/1-2/split", "train": {"weights": ["home:/runs/3/best.pt", "/srv/other"]}}
    monkeypatch.setenv("TRAINYARD_HOME", "/mnt/b")
    assert places.local(carried, {}) == {
        "dataset": "/mnt/b/runs/1-2/split",
        "train": {"weights": ["/mnt/b/runs/3/best.pt", "/srv/other"]},
    }


def test_what_is_written_down_is_changed_only_where_homes_differ(monkeypatch):
    assert places.recorded({"data": "/srv/boxa/x"}) == {"data": "/srv/boxa/x"}
    monkeypatch.setenv(SHARED_DISK, "no")
    assert places.recorded({"data": "/srv/boxa/x"}) == {"data": "home:/x"}


def test_a_run_needs_what_its_parameters_name():
    parameters = {
        "run": "aa-bb",
        "dataset": "home:/runs/cc-dd/split",
        "data": ["data:drones", "data:birds@0123456789ab", "/a/data:x"],
        "deep": {"kept": f"home:/datasets/{DIGEST}/train"},
        "n": 3,
    }
    found = places.needs(parameters, "own")
    assert found == Needs(
        runs=frozenset({"aa-bb", "cc-dd", "own"}),
        data=frozenset({"data:drones", "data:birds@0123456789ab"}),
        digests=frozenset({DIGEST}),
    )
    assert not places.needs({"data": "/some/where", "run": None})


def test_a_data_set_becomes_a_folder_here():
    known = {"data:drones": "/srv/boxa/datasets/1"}
    assert places.local({"data": "data:drones"}, known) == {"data": "/srv/boxa/datasets/1"}


def test_a_word_that_means_neither_yes_nor_no_is_refused(monkeypatch):
    assert hosts_share_a_disk()
    monkeypatch.setenv(SHARED_DISK, "No")
    assert not hosts_share_a_disk()
    monkeypatch.setenv(SHARED_DISK, "maybe")
    with pytest.raises(ConfigError, match="found TRAINYARD_SHARED_DISK='maybe', need yes or no"):
        hosts_share_a_disk()
