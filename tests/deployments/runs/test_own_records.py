"""What `yard run` has left in a home is listed, shown and read without a server, from either database."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.services.database import database_up
from deployments.services.postgres import installed, server_user
from tasks.base.errors import ConfigError, StorageError
from tests.deployments.waiting import wait_for

YARD = Path(sys.executable).parent / "yard"
REPLACED = ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "TRAINYARD_DATABASE")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name in ("calm", "loud"):
        (root / name).mkdir()
        for i in range(6):
            Image.new("RGB", (16, 16), (40 * i, 100, 0 if name == "calm" else 200)).save(root / name / f"{i}.png")
    return root


def environment(home):
    kept = {name: value for name, value in os.environ.items() if name not in REPLACED}
    return {**kept, "TRAINYARD_HOME": str(home), "CUDA_VISIBLE_DEVICES": "", "TRAINYARD_OWNER": "anna@boxa"}


def run(home, *words):
    command = [str(YARD), "run", *map(str, words)]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def used(tmp_path_factory, pictures):
    """A home in which a splitting has ended, and a training was killed in its first epochs."""
    home = tmp_path_factory.mktemp("used")
    run(home, "split_images", "--data", pictures, "--name", "first")
    small = ("train.model=mobilenet_v3_small", "train.pretrained=false", "train.image_size=32", "train.num_epochs=5000")
    words = ["classification", "--data", str(pictures), "--name", "killed", "--device", "cpu"]
    command = [str(YARD), "run", *words, *(word for value in small for word in ("--set", value))]
    env = environment(home)
    with subprocess.Popen(command, env=env, stdout=-1, stderr=-2, start_new_session=True, text=True) as process:
        assert wait_for(
            lambda: any('"run_id": "' in card.read_text() for card in home.glob("runs/*/training/run.json")), 120
        ), process.stdout.read()
        os.killpg(process.pid, signal.SIGKILL)
    return home


@pytest.fixture
def home(used, monkeypatch):
    for name in REPLACED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(used))
    return used


def said(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_runs_are_listed_as_records_of_this_host_and_quickly(home):
    begun = time.monotonic()
    command = [str(YARD), "runs"]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=60, check=True)
    assert time.monotonic() - begun < 5  # a server of Prefect alone takes as long
    head, _, *lines = done.stdout.splitlines()
    assert head == f"no server is up; the records of this host, in {home}:"
    assert any("split_images" in line and "first" in line and "took " in line and "anna@boxa" in line for line in lines)


def test_a_run_whose_process_was_killed_is_called_crashed_and_can_be_resumed(home):
    rows = {row["flow"]: row for row in json.loads(said("runs", "--json"))}
    assert rows["split_images"]["type"] == "COMPLETED"
    assert {row["known_by"] for row in rows.values()} == {"host"}
    for flow in ("classification", "train_classifier"):
        assert rows[flow]["type"] == "CRASHED"
        assert rows[flow]["message"] == f"its process is gone: `yard resume {rows['classification']['id']}` goes on"
    assert "no runs" in said("runs", "--running")
    assert [row["name"] for row in json.loads(said("runs", "--flow", "split_images", "--json"))] == ["first"]


def test_a_run_is_shown_with_its_folder_its_mlflow_run_and_its_states(home):
    shown = json.loads(said("show", "killed", "--json"))
    (card,) = home.glob("runs/*/training/run.json")
    assert json.loads(card.read_text())["run_id"] in shown["mlflow"]
    assert shown["folder"] == str(card.parents[1])
    assert "train_classifier" in {part["flow"] for part in shown["halves"]}
    first = json.loads(said("show", "first", "--json"))
    assert [state["name"] for state in first["states"]] == ["Pending", "Running", "Completed"]
    text = said("show", first["short"])
    assert "no server is up; this is from the records of this host" in text
    assert "took" in text


def test_a_log_is_read_and_following_one_whose_process_is_gone_ends(home):
    assert "12 images of 2 classes" in said("logs", "first")
    assert "12 images of 2 classes" in said("logs", "killed", "--follow")


def test_a_run_is_sent_and_fetched_by_its_name(home, tmp_path):
    assert "training: sent to MLflow run " in said("sync", "killed")
    assert f"in {tmp_path / 'fetched'}" in said("download", "killed", tmp_path / "fetched")
    assert (tmp_path / "fetched" / "config" / "params.json").is_file()
    with pytest.raises(ConfigError, match="found no run 'nobody'"):
        said("download", "nobody", tmp_path / "none")
    with pytest.raises(ConfigError, match="found no run 'nobody'"):
        said("resume", "nobody")


def test_a_home_without_runs_says_so(tmp_path, monkeypatch, home):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    with pytest.raises(ConfigError, match=f"^no server: .*; and no run has left records in {tmp_path}$"):
        said("runs")


def test_a_damaged_database_is_named(tmp_path, monkeypatch, home):
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_bytes(b"no database" * 100)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with pytest.raises(StorageError, match="cannot read .*prefect.db: file is not a database"):
        said("runs")


def test_beside_the_server_of_another_home_the_runs_of_this_one_are_listed_below(yard, used, monkeypatch):
    there = yard.create("split_images", name="there", parameters={"data": "/d"})
    monkeypatch.setenv("TRAINYARD_HOME", str(used))
    monkeypatch.setenv("PREFECT_HOME", str(used / "prefect"))
    rows = {row["name"]: row["known_by"] for row in json.loads(said("runs", "--flow", "split_images", "--json"))}
    assert rows["there"] == "server"
    assert rows["first"] == "host"
    above, below = said("runs", "--flow", "split_images").split(
        f"in the records of this host alone, in {used}; the server does not know them:"
    )
    assert there["id"][:8] in above
    assert "first" in below
    assert "12 images of 2 classes" in said("logs", "first")


@pytest.mark.skipif(not (installed() and server_user()), reason="no PostgreSQL")
def test_a_home_on_postgresql_is_read_as_well(tmp_path, pictures, monkeypatch):
    home = tmp_path / "home"
    for name in REPLACED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(home))
    with database_up(make=True):
        run(home, "split_images", "--data", pictures, "--name", "in-postgres")
    (row,) = json.loads(said("runs", "--json"))
    assert (row["name"], row["type"], row["owner"], row["known_by"]) == (
        *("in-postgres", "COMPLETED", "anna@boxa"),
        "host",
    )
    assert json.loads(said("show", "in-postgres", "--json"))["parameters"] == {"data": str(pictures)}
    assert "12 images of 2 classes" in said("logs", "in-postgres")
