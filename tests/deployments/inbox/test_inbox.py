"""What is dropped becomes one run, also where the inbox is killed between two steps; a bad one is put aside."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.inbox import claiming
from deployments.inbox import take as taker
from deployments.inbox.places import done, inbox, items, make_inbox, read_item, rejected, taking, write_item
from deployments.inbox.report import inbox_lines, inbox_report
from deployments.inbox.serve import Inbox
from deployments.inbox.settling import Settling
from gpu_pools.names import asker
from tests.deployments.inbox.drops import images, zipped

FLOW = "split_images"


@pytest.fixture
def drop(yard):
    make_inbox([FLOW])
    return inbox() / FLOW


def turn(served=None):
    served = served or Inbox(Settling(0), taker.take)
    served.turn()  # sees it for the first time
    served.turn()
    return served


def runs(yard, name=""):
    found = yard.api.pages("/flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "sort": "START_TIME_DESC"})
    return [run for run in found if run["name"].startswith(f"{FLOW}-{name}")]


def test_the_inbox_is_closed_to_others_and_open_to_the_group_of_the_home(tmp_path, monkeypatch):
    for mode, folder in (("0750", 0o2770), ("0700", 0o700), ("0755", 0o2770)):
        monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / mode))
        monkeypatch.setenv("TRAINYARD_HOME_MODE", mode)
        make_inbox([FLOW])
        assert stat.S_IMODE((inbox() / FLOW).stat().st_mode) == folder
        assert not any(path.stat().st_mode & 0o007 for path in inbox().iterdir())
        assert not inbox().stat().st_mode & 0o007
        (inbox() / FLOW).chmod(0o750)
        make_inbox([FLOW])
        assert stat.S_IMODE((inbox() / FLOW).stat().st_mode) == 0o750  # as people have made it


def test_a_folder_becomes_a_run_with_the_parameters_beside_it(yard, drop):
    images(drop / "bands")
    (drop / "bands.yaml").write_text("split:\n  seed: 7\n")
    turn()
    ((folder, item),) = items(done())
    assert list(drop.iterdir()) == []
    run = yard.read(item.run)
    assert run["name"] == item.key == folder.name
    assert run["parameters"]["data"] == str(done(item.key) / "data" / "bands")
    assert run["parameters"]["split"] == {"seed": 7}
    assert run["job_variables"]["owner"] == asker()
    assert len(list(Path(run["parameters"]["data"]).rglob("*.png"))) == 12
    turn()
    assert [found["id"] for found in runs(yard, "bands-")] == [item.run]


def test_an_archive_becomes_a_run_on_what_is_in_it(yard, drop, tmp_path):
    zipped(images(tmp_path / "zebra"), drop / "zebra.zip")
    turn()
    ((folder, item),) = items(done())
    assert yard.read(item.run)["parameters"]["data"] == str(folder / "unpacked" / "zebra")
    assert sorted(path.name for path in (folder / "unpacked" / "zebra").iterdir()) == ["calm", "loud"]
    assert (folder / "data" / "zebra.zip").is_file()


def dropped(drop, name, yaml=None):
    images(drop / name)
    if yaml is not None:
        (drop / f"{name}.yaml").write_bytes(yaml)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda drop: dropped(drop, "a", b"split: {seeed: 7}"), "split.seeed: found 7: Extra inputs are not permitted"),
        (lambda drop: dropped(drop, "a", b"split: ["), "a.yaml is not YAML: "),
        (lambda drop: dropped(drop, "a", b"\xff\xfe\xff"), "is not UTF-8 text"),
        (lambda drop: dropped(drop, "a", b"data: /etc"), "found data in a.yaml: it is what lies beside the file"),
        (lambda drop: dropped(drop, "a", b"x" * (2 << 20)), "found 2097152 bytes, need at most 1048576: a.yaml"),
        (lambda drop: (drop / "a.zip").write_bytes(b"no archive"), "a.zip is damaged"),
        (lambda drop: (drop / "a.png").touch(), "is empty"),
        (lambda drop: (drop / "a").mkdir(), "is empty"),
        (lambda drop: (drop / "a.mp4").symlink_to("/etc/passwd"), "a.mp4 holds a.mp4: a link that leads out of it"),
        (lambda drop: os.mkfifo(drop / "a.mp4"), "a.mp4 holds a.mp4: a device, a pipe or a socket"),
    ],
)
def test_a_bad_one_is_put_aside_with_the_reason_beside_it(yard, drop, make, why):
    before = len(runs(yard))
    make(drop)
    turn()
    assert list(drop.iterdir()) == []
    ((folder, item),) = items(rejected())
    text = (folder / "why.txt").read_text()
    assert why in text
    assert str(folder) not in text
    assert os.path.lexists(folder / "data" / item.name)
    assert (list(items(done())), list(taking().iterdir()), len(runs(yard))) == ([], [], before)
    report = inbox_report()
    assert [one["name"] for one in report["rejected"]] == [item.name]
    assert any(f"{FLOW}/{item.name} rejected at " in line for line in inbox_lines(report))


def test_a_flow_that_is_none_is_said_with_those_there_are(yard, drop):
    (inbox() / "splat").mkdir()
    (inbox() / "splat" / "room.mp4").write_bytes(b"1")
    turn()
    (waiting,) = inbox_report()["waiting"]
    assert waiting["name"] == "room.mp4"
    assert waiting["why"].startswith("found no flow 'splat', have: ")
    assert (inbox() / "splat" / "room.mp4").exists()


def test_while_no_server_answers_it_waits_and_says_so(yard, drop, monkeypatch):
    images(drop / "patient")
    server = os.environ["PREFECT_API_URL"]
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    clock = iter(range(0, 10_000, 100))
    served = turn(Inbox(Settling(0), taker.take, clock=lambda: next(clock)))
    (one,) = inbox_report()["taking"]
    assert one["why"].startswith("no answer from http://127.0.0.1:9/api")
    for _ in range(2 * taker.MAX_ATTEMPTS):  # however long
        served.turn()
    monkeypatch.setenv("PREFECT_API_URL", server)
    served.turn()
    assert len(runs(yard, "patient-")) == 1
    assert inbox_report()["taking"] == []


def test_one_whose_taking_dies_again_and_again_is_put_aside(yard, drop):
    images(drop / "deadly")
    n_calls = []

    def killed(key):
        n_calls.append(key)
        folder = taking(key)
        item = read_item(folder)
        if item.attempts >= taker.MAX_ATTEMPTS:
            return taker.take(key)
        write_item(folder, replace(item, attempts=item.attempts + 1))
        return False

    clock = iter(range(0, 10_000, 100))
    served = turn(Inbox(Settling(0), killed, clock=lambda: next(clock)))
    for _ in range(taker.MAX_ATTEMPTS + 2):
        served.turn()
    ((folder, _),) = items(rejected())
    assert "ended 5 times without a word" in (folder / "why.txt").read_text()
    assert len(n_calls) == taker.MAX_ATTEMPTS + 1


def test_a_file_that_changes_in_the_last_moment_goes_back(yard, drop, monkeypatch):
    images(drop / "late")
    (drop / "late.yaml").write_text("split: {seed: 1}")
    settling = Settling(0)
    settling.look([drop])
    (found,) = settling.look([drop])
    (drop / "late" / "calm" / "6.png").write_bytes(b"more")
    assert claiming.claim(found) is None
    assert sorted(path.name for path in drop.iterdir()) == ["late", "late.yaml"]
    assert list(taking().iterdir()) == []


def test_one_that_goes_back_loses_nothing_where_a_new_one_of_its_name_has_come(yard, drop, monkeypatch):
    (drop / "late.mp4").write_bytes(b"first")
    (drop / "late.yaml").write_text("split: {seed: 1}")
    settling = Settling(0)
    settling.look([drop])
    (found,) = settling.look([drop])

    def written(path):  # a program has it open, and another one brings a new file
        (drop / "late.mp4").write_bytes(b"second")
        return True

    monkeypatch.setattr(claiming, "is_written", written)
    assert claiming.claim(found) is None
    assert (drop / "late.mp4").read_bytes() == b"second"
    assert (drop / "late (2).mp4").read_bytes() == b"first"
    assert (drop / "late (2).mp4.yaml").read_text() == "split: {seed: 1}"
    assert list(taking().iterdir()) == []


def test_a_damaged_record_is_left_alone_and_said_and_the_others_go_on(yard, drop, capsys):
    for folder in (done("x"), taking("y"), rejected("z")):
        folder.mkdir()
        (folder / "item.json").write_text('{"key": 1}')
    images(drop / "healthy")
    turn()
    assert len(runs(yard, "healthy-")) == 1
    (one,) = inbox_report()["taking"]
    assert one["name"] == "y"
    assert "need the record of an item" in one["why"]
    assert "left alone: cannot read" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_what_cannot_be_moved_stays_and_says_why(yard, drop):
    images(drop / "mounted")
    if subprocess.run(["mount", "-t", "tmpfs", "none", drop / "mounted" / "calm"], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        subprocess.run(["mount", "--bind", drop, drop], check=True)
        try:
            (drop / "mounted" / "calm" / "0.png").write_bytes(b"1")
            turn()
            (one,) = inbox_report()["waiting"]
            assert one["why"].startswith("cannot be moved, ")
            assert list(taking().iterdir()) == []
        finally:
            subprocess.run(["umount", drop], check=True)
    finally:
        subprocess.run(["umount", drop / "mounted" / "calm"], check=False)


DRIVER = """
import signal, sys
from pathlib import Path
from deployments.inbox import take as taker
from deployments.inbox.places import inbox
from deployments.inbox.serve import Inbox
from deployments.inbox.settling import Settling
from deployments.runs.flow_list import load_flow
from tests.deployments.inbox.drops import images, zipped
from tests.deployments.inbox.kills import child
from tests.deployments.inbox.test_inbox import FLOW
load_flow(FLOW)
drop, source = inbox() / FLOW, images(Path(sys.argv[1]) / "source")

def turns():
    served = Inbox(Settling(0), taker.take)
    for _ in range(3):
        served.turn()

kind, step = sys.argv[2], 0
while True:
    step += 1
    name = f"{kind}{step}"
    if kind == "zip":
        zipped(source, drop / f"{name}.zip")
    elif kind == "bad":
        images(drop / name)
        (drop / f"{name}.yaml").write_text("split: {seeed: 3}")
    elif kind == "empty":
        (drop / f"{name}.mp4").touch()
    else:
        images(drop / name)
        (drop / f"{name}.yaml").write_text("split: {seed: 3}")
    status = child(turns, step)
    assert status in {0, signal.SIGKILL}, status
    assert child(turns, 0) == 0
    if status == 0:
        break
print(step)
"""


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_killed_at_every_step_each_becomes_one_run_and_nothing_is_lost(yard, drop, tmp_path, kind):
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), kind], cwd=root, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    n_steps = int(ran.stdout.split()[-1])
    assert n_steps > 15
    taken = {item.name.split(".")[0]: (folder, item) for folder, item in items(done())}
    assert set(taken) == {f"{kind}{n}" for n in range(1, n_steps + 1)}
    made = runs(yard, kind)
    assert sorted(run["id"] for run in made) == sorted(item.run for _, item in taken.values())
    for run in made:
        assert len(list(Path(run["parameters"]["data"]).rglob("*.png"))) == 12
        assert (run["parameters"].get("split") == {"seed": 3}) == (kind == "folder")
    assert list(drop.iterdir()) == list(taking().iterdir()) == list(items(rejected())) == []


@pytest.mark.parametrize("kind", ["bad", "empty"])
def test_killed_at_every_step_each_bad_one_is_put_aside_once(yard, drop, tmp_path, kind):
    command = [sys.executable, "-c", DRIVER, str(tmp_path), kind]
    ran = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    n_steps = int(ran.stdout.split()[-1])
    names = sorted(item.name.split(".")[0] for _, item in items(rejected()))
    assert names == sorted(f"{kind}{n}" for n in range(1, n_steps + 1))
    assert all((folder / "why.txt").is_file() for folder, _ in items(rejected()))
    assert list(drop.iterdir()) == list(taking().iterdir()) == list(items(done())) == runs(yard, kind) == []
