"""Schedules are made, listed, switched and removed; a wrong value is refused with what is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.lifecycle.schedules import host_timezone, rhythm
from tasks.base.errors import ConfigError

YARD = Path(sys.executable).parent / "yard"


def command(*words):
    done = subprocess.run([YARD, "schedule", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def listed():
    return {row["id"]: row for row in json.loads(command("--json")[1])}


@pytest.fixture
def data(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
    return tmp_path / "images"


@pytest.fixture
def made(yard, data):
    code, said = command("classification", f"data={data}", "train.num_epochs=3", "--cron", "0 2 * * *", "--json")
    assert code == 0, said
    (row,) = json.loads(said)
    yield row
    command("--remove", row["id"])


def test_a_schedule_is_made_with_checked_parameters_and_a_time_zone(made, yard, data):
    assert made["id"].startswith("classification-")
    assert (made["flow"], made["when"], made["timezone"], made["active"]) == (
        "classification",
        "0 2 * * *",
        host_timezone(),
        True,
    )
    assert made["parameters"]["data"] == str(data)
    assert made["parameters"]["train"] == {"num_epochs": 3}
    assert made["parameters"]["track"]["owner"]


def test_it_is_listed_with_those_of_prefect_yaml(made, yard):
    rows = listed()
    assert {made["id"], "nightly", "weekly", "hourly", "daily"} <= {*rows}
    assert [rows[name]["active"] for name in ("nightly", "weekly", "hourly", "daily")] == [False, False, True, True]
    code, text = command()
    assert code == 0
    assert "train.num_epochs=3" in text


def test_it_is_paused_resumed_and_removed(made, yard):
    assert command("--pause", made["id"]) == (0, f"schedule {made['id']} of classification is off\n")
    assert not listed()[made["id"]]["active"]
    assert command("--resume", made["id"]) == (0, f"schedule {made['id']} of classification fires again\n")
    assert listed()[made["id"]] == made
    assert command("--remove", made["id"]) == (0, f"schedule {made['id']} of classification is removed\n")
    assert made["id"] not in listed()


def test_every_so_long_is_an_interval(yard, data):
    code, said = command("crop_images", f"data={data}", "crop.width=8", "crop.height=8", "--every", "90m", "--json")
    assert code == 0, said
    (row,) = json.loads(said)
    assert row["when"] == "every 1 h 30 min"
    command("--remove", row["id"])


def test_one_of_prefect_yaml_can_be_paused_but_not_removed_nor_resumed_without_its_data(yard):
    code, said = command("--remove", "nightly")
    assert (code, "is of prefect.yaml, and would come back" in said) == (1, True)
    code, said = command("--resume", "nightly")
    assert code == 1
    assert "schedule nightly of classification cannot start a run: data: found nothing, need a value" in said
    assert command("--pause", "housekeeping/hourly")[0] == 0
    assert not listed()["hourly"]["active"]
    assert command("--resume", "hourly")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["classification", "--cron", "0 2 * * *"], "data: found nothing, need a value"),
        (["classification", "data=.", "train.num_epochs=0", "--cron", "0 2 * * *"], "train.num_epochs: found 0"),
        (["nonsense", "--every", "1h"], "nonsense"),
        (["--pause", "nobody"], "found no schedules 'nobody', need one of: "),
        (["classification", "data=."], "found neither --cron nor --every, need one of them"),
        (["classification", "--pause", "nightly"], "found several things to do"),
        (["--cron", "0 2 * * *"], "found several things to do, or half of one"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_made(yard, words, said):
    before = set(listed())
    code, text = command(*words)
    assert (code, said in " ".join(text.split())) == (1, True), text
    assert set(listed()) == before


@pytest.mark.parametrize(
    ("cron", "every", "timezone", "said"),
    [
        ("at two", None, None, "found --cron 'at two', need minute, hour"),
        ("0 2 * * *", "1h", None, "found --cron and --every, need one of them"),
        (None, "30s", None, "found --every 30s, need a minute or more"),
        (None, "soon", None, "found duration 'soon'"),
        ("0 2 * * *", None, "Mars/Phobos", "found --timezone 'Mars/Phobos', need one such as Europe/Berlin"),
        ("0 2 * * *", None, "../../etc/passwd", "found --timezone"),
    ],
)
def test_a_rhythm_that_is_none_is_refused(cron, every, timezone, said):
    with pytest.raises(ConfigError, match=said):
        rhythm(cron, every, timezone)


def test_the_time_zone_is_that_of_the_host_unless_named(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert rhythm("0 2 * * *", None, None) == {"cron": "0 2 * * *", "timezone": "Asia/Tokyo"}
    monkeypatch.setenv("TZ", "nonsense")
    assert host_timezone() == "UTC"
    assert rhythm(None, "1h", "Europe/Berlin") == {"interval": 3600.0, "timezone": "Europe/Berlin"}
