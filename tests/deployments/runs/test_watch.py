"""Who watches a run sees why it waits, how far it is and how it ended, each thing once, and can stop at any time."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deployments.api import connect
from deployments.cli.app import app
from deployments.runs import watch
from deployments.runs.find import RunRow
from deployments.runs.watch import RunSnapshot, Story, panels

YARD = Path(sys.executable).parent / "yard"
WAITS = "cuda:0 is training rfuav of anna@boxa since 14:02, epoch 3 of 30, about 25 min more"
WAITING = RunRow(
    "1f", "1f", "rfuav", "train_classifier", "ben@boxa", "cuda", "cuda.training", 5,
    "SCHEDULED", "Waiting", "2026-11-23T10:00:00Z", WAITS,
)  # fmt: skip
RUNNING = replace(WAITING, type="RUNNING", state="Running", message="", device="cuda:0")
PIPELINE = replace(RUNNING, id="2f", name="both", flow="classification", device="cpu")


def at(epoch, remaining_s, **figures):
    last = {"epoch": epoch, "total_epochs": 30, **figures}
    return replace(RUNNING, epoch=epoch, n_epochs=30, percent=10.0, remaining_s=remaining_s, last_epoch=last)


def line(text, run="1f"):
    return {"timestamp": "2026-11-23T10:00:01Z", "level": 20, "message": text, "flow_run_id": run}


def told(*snapshots):
    story = Story()
    return [story.tell(snapshot) for snapshot in snapshots]


# What is told.


def test_the_sentence_is_told_once_and_again_when_it_changes():
    later = replace(WAITING, message="queue cuda:0.training is paused")
    first, second, third, fourth = told(
        RunSnapshot(WAITING, [], []),
        RunSnapshot(WAITING, [], []),
        RunSnapshot(later, [], []),
        RunSnapshot(RUNNING, [], []),
    )
    assert first == [f"rfuav: Waiting: {WAITS}"]
    assert second == []
    assert third == ["rfuav: Waiting: queue cuda:0.training is paused"]
    assert fourth == ["rfuav: Running"]


def test_an_epoch_is_told_with_figures_and_the_time_left():
    row = at(3, 1500.0, val_acc=0.91234, top3_acc=None)
    first, second, third = told(
        RunSnapshot(row, [], []), RunSnapshot(row, [], []), RunSnapshot(at(4, 1440.0, val_acc=0.92), [], [])
    )
    assert first == ["rfuav: Running", "epoch 3 of 30, about 25 min more: val_acc 0.9123"]
    assert second == []
    assert third == ["epoch 4 of 30, about 24 min more: val_acc 0.92"]


def test_the_halves_of_a_pipeline_are_told_apart():
    (lines,) = told(RunSnapshot(PIPELINE, [WAITING], [line("starts", "2f"), line("waits")]))
    assert lines[:2] == ["both (classification): Running", f"rfuav (train_classifier): Waiting: {WAITS}"]
    assert [text.partition(" INFO    ")[2] for text in lines[2:]] == [
        "[classification] starts",
        "[train_classifier] waits",
    ]


def test_the_terminal_shows_the_sentence_and_then_bar_and_figures():
    out = Console(width=100, force_terminal=False, markup=False)
    with out.capture() as shown:
        out.print(panels(RunSnapshot(PIPELINE, [WAITING], [])))
    assert "both (classification)  Running  cpu" in shown.get()
    assert WAITS in shown.get()
    with out.capture() as shown:
        out.print(panels(RunSnapshot(at(3, 1500.0, train_loss=0.5, val_acc=0.9), [], [])))
    text = shown.get()
    assert "epoch 3 of 30, about 25 min more" in text
    assert "train_loss" in text
    assert "0.9" in text


# With a server.


@pytest.fixture
def quick(monkeypatch):
    """Let less time pass between two snapshots, and none for stragglers."""
    monkeypatch.setattr(watch, "_POLL_S", 0.2)
    monkeypatch.setattr(watch, "_LAST_LINES_S", 0.0)


def training(yard, name):
    return yard.create("train_classifier", name=name, parameters={"dataset": "/d"})["id"]


@pytest.mark.parametrize(
    ("kind", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CRASHED", 1), ("CANCELLED", 130)], ids=str
)
def test_the_result_of_the_run_is_the_exit_code(yard, quick, kind, code):
    run_id = training(yard, "ended")
    yard.state(run_id, kind, message="the reason")
    yard.log(run_id, ("2026-11-23T10:00:01Z", "its last line"))
    done = CliRunner().invoke(app, ["watch", run_id])
    assert done.exit_code == code
    assert f"ended: {kind.capitalize()}: the reason\n" in done.stdout
    assert " its last line\n" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"/runs/flow-run/{run_id}")


def test_on_a_terminal_the_log_stands_above_what_moves(yard, quick, monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(watch, "console", lambda: Console(file=screen, force_terminal=True, width=100, markup=False))
    run_id = training(yard, "shown")
    yard.log(run_id, ("2026-11-23T10:00:01Z", "its only line"))
    yard.state(run_id, "FAILED", message="the reason")
    assert watch.watch(yard.api, run_id) == 1
    assert screen.getvalue().count("its only line") == 1
    last = screen.getvalue().rpartition("its only line")[2]
    assert "Failed" in last
    assert "the reason" in last


def test_a_run_is_followed_from_its_queue_to_its_end(yard, quick):
    run_id = training(yard, "story")
    yard.state(run_id, "SCHEDULED", "Waiting", WAITS)

    def run():
        steps = [
            lambda: yard.state(run_id, "RUNNING"),
            lambda: yard.epochs(run_id, [{"epoch": 1, "total_epochs": 2, "val_acc": 0.5}], 50.0),
            lambda: yard.log(run_id, ("2026-11-23T10:00:01Z", "epoch 1/2")),
            lambda: yard.state(run_id, "COMPLETED"),
        ]
        for step in steps:
            time.sleep(1.0)
            step()

    worker = threading.Thread(target=run)
    with connect() as api:
        worker.start()
        lines = []
        story = Story()
        for snapshot in watch.snapshots(api, run_id):
            lines += story.tell(snapshot)
    worker.join()
    kinds = [text.partition(", about")[0] for text in lines]
    assert kinds[:2] == [f"story: Waiting: {WAITS.partition(', about')[0]}", "story: Running"]
    assert "epoch 1 of 2" in kinds
    assert sum("epoch 1/2" in text for text in lines) == 1
    assert lines[-1] == "story: Completed"


def test_a_log_is_followed_to_the_end_of_the_run(yard, quick):
    run_id = training(yard, "spoken")
    yard.log(run_id, ("2026-11-23T10:00:01Z", "one"))
    snapshots = watch.snapshots(yard.api, run_id)
    assert [found["message"] for found in next(snapshots).lines] == ["one"]
    yard.log(run_id, ("2026-11-23T10:00:02Z", "two"))
    yard.state(run_id, "COMPLETED")
    assert [found["message"] for snapshot in snapshots for found in snapshot.lines] == ["two"]
    done = CliRunner().invoke(app, ["logs", run_id, "--follow"])
    assert [text.split()[-1] for text in done.stdout.splitlines()] == ["one", "two"]


def test_submitting_can_go_on_as_watching(yard, quick, tmp_path):
    (tmp_path / "images").mkdir()

    def end():
        with connect() as api:
            wanted = {"flow_runs": {"name": {"any_": ["watched"]}}}
            while not (found := list(api.pages("/flow_runs/filter", wanted))):
                time.sleep(0.2)
            body = {"state": {"type": "FAILED", "message": "no images"}, "force": True}
            api.call("POST", f"/flow_runs/{found[0]['id']}/set_state", body)

    worker = threading.Thread(target=end)
    worker.start()
    words = ["submit", "prepare_dataset", f"data={tmp_path}/images", "--name", "watched", "--watch"]
    done = CliRunner().invoke(app, words)
    worker.join()
    assert done.exit_code == 1
    assert "watched: Failed: no images" in done.stdout


def test_ctrl_c_ends_the_watching_and_not_the_run(yard):
    run_id = training(yard, "left alone")
    # Whoever runs the tests in the background of a shell has Ctrl-C ignored, and every process inherits that.
    command = ["env", "--default-signal=INT", str(YARD), "watch", run_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("left alone: ")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert rest.splitlines()[-1] == (
        f"stopped watching; the run goes on: `yard watch {run_id}` looks again, `yard cancel {run_id}` ends it"
    )
    assert process.returncode == 130
    assert yard.read(run_id)["state_type"] == "SCHEDULED"
