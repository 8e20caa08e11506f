"""A worker brings what a run needs before it takes a slot, by a process beside it."""

import os
import time

import pytest

from gpu_pools.prefect_client import Run
from gpu_pools.transfer.transfers import Transfers, run_needs
from tasks.base.workspace import run_dir
from tasks.store.arrivals import run_folder
from tasks.store.datasets import DataSets
from tasks.store.places import Needs
from tasks.store.setting import SHARED_DISK
from tests.tasks.store.conftest import mlflow_url, objects  # noqa: F401  # fixtures

PLACE = "boxb:/srv/b"


def run(infrastructure: str = "", **parameters: object) -> Run:
    return Run(
        *("11-22", "name", "cuda.training", None, "SCHEDULED", "Scheduled", "", 0.0, {}, infrastructure),
        parameters=parameters,
    )


def test_a_run_needs_its_own_folder_only_where_another_host_began_it():
    assert not run_needs(run(), PLACE)
    assert not run_needs(run(f"{PLACE}:12"), PLACE)
    assert run_needs(run("boxa:/srv/a:12"), PLACE) == Needs(runs=frozenset({"11-22"}))


@pytest.fixture
def made(objects, tmp_path, monkeypatch):  # noqa: F811
    """Yield what the worker of a host without a shared disk has, with a clock that a test moves."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", objects.url)
    monkeypatch.setenv(SHARED_DISK, "no")
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "a"))
    now = [1000.0]
    found = Transfers(PLACE, lambda: now[0])
    yield found, now
    found.close()


def until_here(transfers: Transfers, wanted: Run, limit_s: float = 60) -> list[str]:
    """Ask until nothing is missing; return what was said until then."""
    said, deadline = [], time.monotonic() + limit_s
    while (text := transfers.missing(wanted)) is not None:
        said.append(text)
        assert time.monotonic() < deadline, said[-1]
        time.sleep(0.02)
    return said


@pytest.mark.yard
def test_the_folder_of_a_pipeline_and_a_data_set_are_here_before_the_run_begins(made, objects, tmp_path, monkeypatch):  # noqa: F811
    transfers, now = made
    (run_dir("p-1") / "split").mkdir()
    (run_dir("p-1") / "split" / "large").write_bytes(os.urandom(2**20) * 64)
    run_folder(objects, "p-1").send("p-1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("a")
    address = DataSets(objects).put(tmp_path / "data", "small", "anna").address
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "b"))
    wanted = run(dataset="home:/runs/p-1/split", run="p-1", data=address)
    said = until_here(transfers, wanted)
    assert said[0] == "its files are brought here"
    assert (tmp_path / "b" / "runs" / "p-1" / "split" / "large").stat().st_size == 64 * 2**20
    assert [path.read_text() for path in (tmp_path / "b" / "datasets").glob("*/a")] == ["a"]
    assert transfers.missing(wanted) is None
    now[0] += 120  # another host may have sent something since
    assert until_here(transfers, wanted)


@pytest.mark.yard
def test_what_cannot_be_brought_is_said_and_tried_again(made, objects, tmp_path, monkeypatch):  # noqa: F811
    transfers, now = made
    (run_dir("p-2")).joinpath("file").write_text("f")
    run_folder(objects, "p-2").send("p-2")
    home = tmp_path / "b"
    (home / "runs").mkdir(parents=True)
    (home / "runs" / "p-2").write_text("in the way")
    monkeypatch.setenv("TRAINYARD_HOME", str(home))
    wanted, deadline = run(run="p-2"), time.monotonic() + 60
    while "cannot be brought here" not in (transfers.missing(wanted) or ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (home / "runs" / "p-2").unlink()
    now[0] += 11
    until_here(transfers, wanted)
    assert (home / "runs" / "p-2" / "file").read_text() == "f"


@pytest.mark.yard
def test_a_data_set_that_does_not_exist_is_the_runs_own_to_say(made):
    transfers, _ = made
    until_here(transfers, run(data="data:nobody-has-it"))


@pytest.mark.yard
def test_a_process_that_was_killed_is_started_again(made, objects):  # noqa: F811
    transfers, now = made
    transfers.missing(run(data="data:nobody"))
    assert transfers._process is not None
    transfers._process.kill()
    transfers._process.wait()
    now[0] += 1000
    until_here(transfers, run(data="data:nobody-else"))


@pytest.mark.yard
def test_what_a_dead_run_has_left_is_sent(made, objects):  # noqa: F811
    transfers, _ = made
    (run_dir("p-3")).joinpath("checkpoint.pt").write_text("epoch 7")
    transfers.send("r-3", "p-3")
    deadline = time.monotonic() + 60
    while not run_folder(objects, "p-3").known():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "checkpoint.pt" in run_folder(objects, "p-3").known()


def test_where_all_share_a_disk_nothing_is_asked(monkeypatch):
    monkeypatch.delenv(SHARED_DISK, raising=False)
    transfers = Transfers(PLACE, time.time)
    assert transfers.missing(run("boxa:/srv/a:12", run="p-1", dataset="home:/runs/p-1/split")) is None
    transfers.send("r", "p")
    assert transfers._process is None
