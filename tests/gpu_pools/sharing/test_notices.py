"""Whom a notice concerns, that it is left once, and that nobody who leaves one is held up."""

import pytest

from gpu_pools.names import FROM_SCHEDULE
from gpu_pools.sharing.notices import Notice, notice_id, notify, read_waiting, recipients, told_file, waiting_file
from gpu_pools.sharing.settings import read_settings, settings_path

SETTINGS = """
admins: [carla]
groups: {vision: [ben, dora@boxb]}
notices:
  mail: {server: smtp.lab, sender: yard@lab.example}
  to:
    anna: {owners: [anna], mail: anna@lab.example}
    vision: {owners: [vision], mail: vision@lab.example, kinds: [failed]}
    carla: {owners: [carla], mail: carla@lab.example}
    all: {webhook_file: hook, kinds: [failed, disk-low]}
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    settings_path().write_text(SETTINGS)


@pytest.mark.parametrize(
    ("kind", "owner", "told"),
    [
        ("finished", "anna@boxa", ["anna"]),
        ("failed", "anna", ["anna", "all"]),
        ("failed", "ben@boxc", ["vision", "all"]),
        ("failed", "dora@boxb", ["vision", "all"]),
        ("failed", "dora@boxa", ["all"]),
        ("finished", "ben@boxc", []),
        ("disk-low", "", ["carla", "all"]),
        ("failed", FROM_SCHEDULE, ["carla", "all"]),
        ("device-lost", "", ["carla"]),
    ],
)
def test_who_is_told(kind, owner, told):
    assert recipients(Notice("n", kind, "text", owner), read_settings()) == told


def test_it_is_left_once_also_when_it_has_been_told():
    for _ in range(2):
        notify("disk-low", "1", "the disk is low", figures={"free": "3 GB"})
    (left,) = read_waiting()
    assert (left.text, left.figures) == ("the disk is low", {"free": "3 GB"})
    told_file(left.id).parent.mkdir()
    waiting_file(left.id).rename(told_file(left.id))
    notify("disk-low", "1", "the disk is low")
    assert read_waiting() == []


def test_what_concerns_nobody_is_not_left():
    notify("finished", "1", "done", owner="eve")
    assert read_waiting() == []


def test_settings_that_are_wrong_hold_nobody_up(caplog):
    settings_path().write_text("notices: {to: {anna: {}}}")
    notify("failed", "1", "it broke", owner="anna")
    assert "notices.to.anna: Value error, found none, need one of mail" in caplog.text


def test_a_folder_that_cannot_be_written_holds_nobody_up(caplog, tmp_path):
    (tmp_path / "notices").write_text("in the way")
    notify("failed", "1", "it broke", owner="anna")
    assert "nobody is told that it broke" in caplog.text


def test_another_kind_or_key_is_another_notice():
    assert len({notice_id("failed", "1"), notice_id("failed", "2"), notice_id("finished", "1")}) == 3
