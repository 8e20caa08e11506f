"""What people see of runs is what the server holds; what they change is changed there."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.api import NotFoundError, connect
from deployments.cli.app import app
from deployments.cli.terminal.details import folder_of
from deployments.runs.find import LogTail, find_run, list_runs, make_rows, read_logs
from deployments.stack.stack import ServiceError, free_port
from gpu_pools.names import host_name
from gpu_pools.slots.lease import Holder, SlotProgress, acquire
from tasks.base.errors import ConfigError, GpuError

YARD = Path(sys.executable).parent / "yard"
WAITS = "cuda:0 is training rfuav of anna@boxa since 14:02, epoch 3 of 30, about 25 min more"


def said(*words, code=0):
    """Return what `yard` prints on standard output."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(done.exception, ConfigError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def document(*words):
    return json.loads(said(*words, "--json"))


def training(yard, name, **variables):
    return yard.create("train_classifier", name=name, parameters={"dataset": "/d"}, job_variables=variables)


# Lists.


def test_a_run_is_listed_with_its_owner_device_priority_and_state(yard):
    run = training(yard, "listed", owner="anna@boxa", priority=2)
    row = next(row for row in document("runs") if row["id"] == run["id"])
    assert row["short"] == run["id"][:8]
    shown = {key: row[key] for key in ("name", "flow", "owner", "device", "queue", "priority", "type", "state")}
    assert shown == {
        "name": "listed",
        "flow": "train_classifier",
        "owner": "anna@boxa",
        "device": "cuda",
        "queue": "cuda.training",
        "priority": 2,
        "type": "SCHEDULED",
        "state": "Scheduled",
    }
    assert row["message"] == "no worker has looked at it yet"
    assert run["id"][:8] in said("runs")


def test_an_ended_run_says_how_it_used_its_device(yard):
    run = training(yard, "measured")
    labels = {"trainyard.held_s": 67.2, "trainyard.first_batch_s": 20.12, "trainyard.gpu_busy_share": 0.253}
    yard.api.call("PATCH", f"/flow_runs/{run['id']}/labels", labels)
    row = next(row for row in document("runs") if row["id"] == run["id"])
    assert (row["held_s"], row["gpu_busy_share"]) == (None, None)  # it has not ended: those of an earlier attempt
    for kind in ("RUNNING", "COMPLETED"):
        yard.state(run["id"], kind)
    row = next(row for row in document("runs") if row["id"] == run["id"])
    assert (row["held_s"], row["first_batch_s"], row["gpu_busy_share"]) == (67.2, 20.12, 0.253)
    assert "held 67 s, GPU 25 %" in said("runs")
    assert "held 67 s, first batch after 20.1 s, GPU 25 % busy" in said("show", run["id"])


def test_the_memory_that_a_run_took_stands_beside_what_was_expected(yard):
    run = training(yard, "fits")
    yard.api.call("PATCH", f"/flow_runs/{run['id']}/labels", {"trainyard.peak_memory_mib": 12750.0})
    for kind in ("RUNNING", "COMPLETED"):
        yard.state(run["id"], kind)
    assert document("show", run["id"])["memory_forecast_mib"] is None
    assert "expected" not in said("show", run["id"])
    source = "interpolated from 4 runs"
    expected = {"trainyard.memory_forecast_mib": 13800, "trainyard.memory_forecast_source": source}
    yard.api.call("PATCH", f"/flow_runs/{run['id']}/labels", expected)
    assert "13,800 MiB expected (interpolated from 4 runs); it took 12,750 MiB, 8 % less" in said("show", run["id"])
    assert document("show", run["id"])["memory_forecast_source"] == source


def test_a_run_in_a_terminal_that_waited_began_once(yard):
    run = yard.create("train_classifier", name="waited-here", parameters={"dataset": "/d"})
    for name, message in (("Waiting", WAITS), ("Waiting", "another reason"), ("Running", "")):
        yard.state(run["id"], "RUNNING", name, message)
    assert document("show", run["id"])["attempts"] == 1
    for kind in ("SCHEDULED", "PENDING", "RUNNING"):
        yard.state(run["id"], kind)
    assert document("show", run["id"])["attempts"] == 2


def test_the_device_of_another_host_is_written_as_people_do(yard):
    run = training(yard, "elsewhere")
    other = yard.create("train_classifier", parameters={"dataset": "/d"}, work_queue_name="boxb.cuda:1.training")
    devices = {row.id: row.device for row in make_rows(yard.api, [run, other])}
    assert list(devices.values()) == ["cuda", "boxb/cuda:1"]


def test_waiting_runs_come_by_when_they_were_due_with_the_sentence_why(yard):
    runs = [training(yard, f"queued-{n}", owner="waiter@boxa") for n in range(3)]
    for run in reversed(runs):
        yard.state(run["id"], "SCHEDULED", "Waiting", WAITS)
    ended = training(yard, "over", owner="waiter@boxa")
    yard.state(ended["id"], "COMPLETED")
    rows = document("runs", "--waiting", "--owner", "waiter")
    assert {row["name"] for row in rows} == {"queued-0", "queued-1", "queued-2"}
    assert [row["since"] for row in rows] == sorted(row["since"] for row in rows)
    assert {row["message"] for row in rows} == {WAITS}
    assert said("runs", "--waiting", "--owner", "waiter@boxa").count(WAITS) == 3


def test_what_runs_comes_first_then_what_waits_then_what_ended_and_what_is_for_later_last(yard):
    mine = {"owner": "order@boxa"}
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    booked = {"type": "SCHEDULED", "state_details": {"scheduled_time": later}}
    for n in range(25):  # as schedules make them, before all else
        yard.create("prepare_dataset", name=f"later-{n}", parameters={"data": "/d"}, job_variables=mine, state=booked)
    runs = {name: training(yard, name, **mine)["id"] for name in ("waits", "old", "new", "runs")}
    for name in ("old", "new"):
        yard.state(runs[name], "RUNNING")
        yard.state(runs[name], "COMPLETED")
    yard.state(runs["runs"], "RUNNING")
    names = [row["name"] for row in document("runs", "--owner", "order")]
    assert names[:4] == ["runs", "waits", "new", "old"]
    assert (len(names), {name.partition("-")[0] for name in names[4:]}) == (20, {"later"})
    assert "--scheduled those of later" in said("runs", "--owner", "order")
    booked_only = [row["name"] for row in document("runs", "--scheduled", "--owner", "order", "--limit", 40)]
    assert sorted(booked_only) == sorted(f"later-{n}" for n in range(25))
    assert document("runs", "--waiting", "--owner", "order")[0]["name"] == "waits"


def test_lists_are_cut_and_narrowed(yard):
    for n in range(3):
        run = yard.create(
            "prepare_dataset", name=f"cut-{n}", parameters={"data": "/d"}, job_variables={"owner": "cut@x"}
        )
        yard.state(run["id"], "RUNNING")
    assert len(document("runs", "--running", "--owner", "cut", "--limit", 2)) == 2
    assert len(document("runs", "--running", "--owner", "cut", "--flow", "prepare_dataset")) == 3
    assert document("runs", "--owner", "cut", "--flow", "classification") == []
    assert document("runs", "--waiting", "--owner", "cut") == []
    assert said("runs", "--owner", "nobody") == "no runs\n"


def test_a_running_training_shows_its_epoch_and_figures(yard):
    run = training(yard, "far")
    yard.state(run["id"], "RUNNING")
    yard.epochs(run["id"], [{"epoch": n, "total_epochs": 30, "val_acc": n / 30} for n in (1, 2, 3)], 10.0)
    (row,) = make_rows(yard.api, [yard.read(run["id"])])
    assert (row.epoch, row.n_epochs, row.percent) == (3, 30, 10.0)
    assert row.last_epoch == {"epoch": 3, "total_epochs": 30, "val_acc": 0.1}
    assert row.remaining_s == pytest.approx(45, abs=3)  # the page was sent first after 5 s, in which a tenth was done
    assert "epoch 3 of 30, about " in said("runs", "--running")


def test_the_lock_of_a_run_on_this_host_says_more_than_its_page(yard):
    run = training(yard, "held")
    yard.state(run["id"], "RUNNING")
    yard.epochs(run["id"], [{"epoch": 1, "total_epochs": 30}], 3.0)
    holder = Holder(run["id"], "held", "anna@boxa", "cuda:1", "", "training", -1, 1, time.time(), None)
    with acquire("GPU-1", "training", 1, holder) as lease:
        lease.record(progress=SlotProgress(4, 30, 600.0, time.time()))
        (row,) = make_rows(yard.api, [yard.read(run["id"])])
    assert (row.device, row.epoch) == ("cuda:1", 4)
    assert row.remaining_s == pytest.approx(600, abs=5)


# One run.


def test_a_run_is_found_by_its_id_its_beginning_and_its_name(yard):
    run = training(yard, "sought")
    for wanted in (run["id"], run["id"][:8], run["id"][-8:], run["id"].upper(), "sought"):
        assert find_run(yard.api, wanted)["id"] == run["id"]


def test_a_name_that_two_runs_have_is_refused_with_both(yard):
    ids = {training(yard, "twin")["id"] for _ in range(2)}
    with pytest.raises(ConfigError, match="found 2 runs for 'twin', need one: ") as caught:
        find_run(yard.api, "twin")
    assert all(run_id in str(caught.value) for run_id in ids)


def test_the_name_of_a_pipeline_means_it_and_not_its_halves(yard):
    run = yard.create("classification", name="shared", parameters={"data": "/d"})
    half = yard.child(run["id"], "train_classifier", name="shared", parameters={"dataset": "/d"})
    assert find_run(yard.api, "shared")["id"] == run["id"]
    assert find_run(yard.api, half["id"][:8])["id"] == half["id"]


@pytest.mark.parametrize("wanted", ["nobody", "00000000", "00000000-0000-0000-0000-000000000000"])
def test_a_run_that_is_not_there_is_named(yard, wanted):
    with pytest.raises(NotFoundError, match=f"found no run '?{wanted}"):
        find_run(yard.api, wanted)


@pytest.fixture
def pipeline(yard):
    """A failed pipeline: a preparation that is done, a training that crashed in its fourth epoch."""
    run = yard.create("classification", name="pipe", parameters={"data": "/d"}, job_variables={"time_limit": "1h"})
    kept = {"run": run["id"]}
    split = yard.child(run["id"], "prepare_dataset", name="split", parameters={"data": "/d", **kept})
    train = yard.child(run["id"], "train_classifier", name="fit", parameters={"dataset": "/d", **kept})
    yard.state(run["id"], "RUNNING")
    yard.state(split["id"], "COMPLETED")
    yard.state(train["id"], "SCHEDULED", "Waiting", WAITS)
    yard.epochs(train["id"], [{"epoch": 3, "total_epochs": 30, "val_loss": 0.5}], 10.0)
    yard.artifact(train["id"], "markdown", "mlflow-run", "[Curves](http://h:5000/#/experiments/1/runs/abc?x=y)")
    yard.state(train["id"], "CRASHED", message="given up after 4 attempts")
    yard.state(run["id"], "FAILED", message="its half crashed")
    folder = yard.home / "runs" / run["id"] / "training"
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "metrics.json").write_text('{"accuracy": 0.9}')
    (folder / "checkpoint.pt").touch()
    return run, split, train


def test_a_pipeline_that_runs_says_what_its_half_waits_for(yard):
    run = yard.create("classification", name="waits-inside", parameters={"data": "/d"})
    half = yard.child(run["id"], "train_classifier", name="inside", parameters={"dataset": "/d"})
    yard.state(run["id"], "RUNNING")
    yard.state(half["id"], "SCHEDULED", "Waiting", WAITS)
    (row,) = make_rows(yard.api, [yard.read(run["id"])])
    assert (row.state, row.message) == ("Running", f"train_classifier: {WAITS}")


def test_everything_about_a_run_is_in_one_document(yard, pipeline):
    run, split, train = pipeline
    found = document("show", run["id"])
    assert [past["name"] for past in found["states"]] == ["Scheduled", "Running", "Failed"]
    assert [(half["id"], half["state"]) for half in found["halves"]] == [
        (split["id"], "Completed"),
        (train["id"], "Crashed"),
    ]
    assert found["parameters"] == {"data": "/d"}
    assert found["job_variables"] == {"time_limit": "1h"}
    assert found["last_epoch"]["val_loss"] == 0.5
    assert found["mlflow"] == "http://h:5000/#/experiments/1/runs/abc?x=y"
    assert found["figures"] == {"accuracy": 0.9}
    assert found["folder"] == str(yard.home / "runs" / run["id"])
    assert found["url"].endswith(f"/runs/flow-run/{run['id']}")
    assert found["resume"].startswith(f"`yard resume {run['id']}` goes on here and now, from its checkpoint")


@pytest.mark.parametrize(
    ("left", "where"),
    [
        ("training/splat.ckpt", r"its checkpoint of \d{4}-\d\d-\d\d \d\d:\d\d"),
        ("training/checkpoint.pt", r"its checkpoint of \d{4}-\d\d-\d\d \d\d:\d\d"),
        ("training/finished.json", "its finished training"),
        ("poses/undistorted/made_with.json", "its cameras"),
        ("frames/frames.csv", "its images"),
        ("augmented/made_with.json", "its augmented images"),
        ("split/made_with.json", "its split data"),
        ("split.tmp/made_with.json", "its beginning"),
    ],
)
def test_each_pipeline_says_from_where_a_run_goes_on(yard, left, where):
    run = yard.create("splatting", name="died", parameters={"data": "/d"})
    yard.state(run["id"], "RUNNING")
    yard.state(run["id"], "CRASHED")
    path = yard.home / "runs" / run["id"] / left
    path.parent.mkdir(parents=True)
    path.touch()
    sentence = f"`yard resume {run['id']}` goes on here and now, from {where}; "
    assert re.match(sentence, document("show", run["id"])["resume"])


def test_a_half_shows_the_folder_of_its_pipeline(yard, pipeline):
    run, _, train = pipeline
    assert document("show", train["id"])["folder"] == str(yard.home / "runs" / run["id"])


@pytest.mark.parametrize("word", ["/etc", "../../etc", "..", "a/b", 7, None])
def test_a_parameter_leads_to_no_folder_outside_those_of_runs(yard, word):
    assert folder_of({"id": "own", "parameters": {"run": word}}) == yard.home / "runs" / "own"


def test_a_person_reads_the_same(yard, pipeline):
    text = said("show", pipeline[0]["id"])
    for part in ("its half crashed", "given up after 4 attempts", "val_loss 0.5", "accuracy 0.9", "data: /d", "resume"):
        assert part in text


# Logs.


def moments(n, start=0):
    return [f"2026-11-23T10:{i // 60:02d}:{i % 60:02d}.{i % 7}00000Z" for i in range(start, start + n)]


def test_every_page_of_a_log_is_read(yard):
    run = training(yard, "talker")
    yard.log(run["id"], *((at, f"line {n}") for n, at in enumerate(moments(450))))
    lines = said("logs", run["id"]).splitlines()
    assert [line.partition(" line ")[2] for line in lines] == [str(n) for n in range(450)]
    assert lines[0].split()[1] == "INFO"
    assert len(document("logs", run["id"])) == 450


def test_the_log_of_a_pipeline_has_its_halves_in_the_order_of_time(yard, pipeline):
    run, split, train = pipeline
    first, second, third = moments(3)
    yard.log(train["id"], (third, "trains"))
    yard.log(run["id"], (first, "starts"))
    yard.log(split["id"], (second, "splits"))
    lines = [line.split(maxsplit=2)[2] for line in said("logs", run["id"]).splitlines()]
    assert lines == ["[classification] starts", "[prepare_dataset] splits", "[train_classifier] trains"]


def test_a_line_that_arrives_late_is_shown_once(yard):
    run = training(yard, "late")
    tail = LogTail(yard.api)
    early, late, last = moments(3)
    yard.log(run["id"], (early, "a"), (last, "c"))
    assert [line["message"] for line in tail.more([run["id"]])] == ["a", "c"]
    yard.log(run["id"], (late, "b"))
    assert [line["message"] for line in tail.more([run["id"]])] == ["b"]
    assert tail.more([run["id"]]) == []
    assert [line["message"] for line in read_logs(yard.api, [run["id"]])] == ["a", "b", "c"]


# Changes.


def test_a_waiting_run_is_cancelled_at_once(yard):
    run = training(yard, "unwanted")
    assert said("cancel", run["id"]) == f"run {run['id']} (unwanted) is cancelled; it was waiting, nothing ran\n"
    assert yard.read(run["id"])["state_type"] == "CANCELLED"


def test_a_running_run_is_cancelled_by_its_worker(yard):
    run = training(yard, "stopped")
    yard.state(run["id"], "RUNNING")
    assert "is being stopped by its worker, its parts with it" in said("cancel", run["id"])
    assert yard.read(run["id"])["state_name"] == "Cancelling"


def test_a_run_that_has_ended_is_left_as_it_is(yard):
    run = training(yard, "done")
    yard.state(run["id"], "COMPLETED")
    assert said("cancel", run["id"]) == f"run {run['id']} (done) has ended already: Completed\n"


def test_several_runs_are_cancelled_whatever_is_wrong_with_one(yard):
    runs = [training(yard, f"many-{n}") for n in range(2)]
    done = CliRunner().invoke(app, ["cancel", runs[0]["id"], "nowhere", "many-1"])
    assert [line.split("(")[1].split(")")[0] for line in done.stdout.splitlines()] == ["many-0", "many-1"]
    assert str(done.exception).startswith("found no run 'nowhere'")
    assert {yard.read(run["id"])["state_type"] for run in runs} == {"CANCELLED"}


def test_runs_are_cancelled_by_what_they_are(yard):
    own = [training(yard, f"own-{n}", owner="zoe@boxa") for n in range(2)]
    other = training(yard, "not hers", owner="max@boxa")
    yard.state(own[1]["id"], "RUNNING")
    with pytest.raises(ConfigError, match=r"^found no terminal to ask in \(cancel 2 runs\?\), need --yes$"):
        said("cancel", "--owner", "zoe", "--force")
    assert yard.read(own[0]["id"])["state_type"] == "SCHEDULED"
    assert "many" not in said("cancel", "--owner", "zoe", "--waiting", "--yes", "--force")
    assert [yard.read(run["id"])["state_type"] for run in (*own, other)] == ["CANCELLED", "RUNNING", "SCHEDULED"]
    said("cancel", "--owner", "zoe", "--flow", "train_classifier", "-y", "--force")
    assert yard.read(own[1]["id"])["state_name"] == "Cancelling"
    assert said("cancel", "--owner", "zoe", "--waiting") == "no such runs\n"


def test_what_is_due_later_is_cancelled_only_when_asked(yard):
    now = training(yard, "due", owner="ada@boxa")
    at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": at}}
    variables = {"owner": "ada@boxa"}
    later = yard.create(
        "train_classifier", name="booked", parameters={"dataset": "/d"}, job_variables=variables, state=state
    )
    assert "booked" not in said("cancel", "--owner", "ada", "--waiting", "--yes", "--force")
    said("cancel", "--owner", "ada", "--flow", "train_classifier", "-y", "--force")
    assert [yard.read(run["id"])["state_type"] for run in (now, later)] == ["CANCELLED", "SCHEDULED"]
    assert f"{later['id'][:8]}  later       booked\n" in said(
        "cancel", "--owner", "ada", "--scheduled", "-y", "--force"
    )
    assert yard.read(later["id"])["state_type"] == "CANCELLED"


@pytest.mark.parametrize("words", [[], ["many-0", "--waiting"]])
def test_what_to_cancel_is_said_in_one_way(yard, words):
    with pytest.raises(ConfigError, match="need runs, or options that say which"):
        said("cancel", *words)


def test_who_cancels_is_who_trainyard_owner_names(yard, monkeypatch):
    monkeypatch.setenv("TRAINYARD_OWNER", "lab@boxz")
    run = training(yard, "stopped by the lab")
    yard.state(run["id"], "RUNNING")
    said("cancel", run["id"])
    assert yard.read(run["id"])["state"]["message"] == "cancelled by lab@boxz"


def test_an_ended_run_shows_the_device_it_had(yard):
    run = training(yard, "of any gpu")
    labels = {"trainyard.device": "cuda:1", "trainyard.host": host_name()}
    yard.api.call("PATCH", f"/flow_runs/{run['id']}/labels", labels)
    yard.state(run["id"], "COMPLETED")
    assert document("show", run["id"])["device"] == "cuda:1"
    yard.api.call("PATCH", f"/flow_runs/{run['id']}/labels", {**labels, "trainyard.host": "boxb"})
    assert document("show", run["id"])["device"] == "boxb/cuda:1"


def test_a_run_in_a_terminal_is_not_cancelled_from_elsewhere(yard):
    flow = yard.api.call("POST", "/flows/", {"name": "train_classifier"})
    run = yard.api.call("POST", "/flow_runs/", {"flow_id": flow["id"], "state": {"type": "RUNNING"}})
    with pytest.raises(ConfigError, match="was started by `yard run` or by code: Ctrl-C there ends it"):
        said("cancel", run["id"])


@pytest.mark.parametrize("kind", ["SCHEDULED", "RUNNING", "CANCELLING"])
def test_a_living_run_is_not_deleted(yard, kind):
    run = training(yard, "alive")
    for step in dict.fromkeys(["RUNNING", kind]):
        yard.state(run["id"], step)
    with pytest.raises(ConfigError, match=rf"run {run['id']} \(alive\) is \w+: `yard cancel {run['id']}` first"):
        said("delete", run["id"], "--yes")


def test_a_pipeline_is_deleted_with_its_halves_and_files(yard, pipeline):
    said("delete", pipeline[0]["id"], "--yes")
    assert not (yard.home / "runs" / pipeline[0]["id"]).exists()
    for run in pipeline:
        with pytest.raises(NotFoundError):
            find_run(yard.api, run["id"])


def test_nothing_is_deleted_without_a_yes(yard, pipeline):
    with pytest.raises(ConfigError, match=r"remove run .* \(pipe\): their records, their files\?\), need --yes$"):
        said("delete", pipeline[0]["id"])
    assert find_run(yard.api, pipeline[0]["id"])


def test_the_mlflow_run_goes_only_when_asked_and_never_under_a_champion(yard, pipeline, tracking, champion):
    from tasks.tracking.mlflow_api import client

    os.environ["MLFLOW_TRACKING_URI"] = tracking
    card = yard.home / "runs" / pipeline[0]["id"] / "training" / "run.json"
    card.write_text(json.dumps({"run_id": champion}))
    with pytest.raises(ConfigError, match="made version 1 of model 'classification', which is champion: give that"):
        said("delete", pipeline[0]["id"], "--artifacts", "--yes")
    unloved = client().create_run("0").info.run_id
    card.write_text(json.dumps({"run_id": unloved}))
    assert f"removed MLflow run {unloved}\n" in said("delete", pipeline[0]["id"], "--artifacts", "--yes")
    stages = [client().get_run(run_id).info.lifecycle_stage for run_id in (champion, unloved)]
    assert stages == ["active", "deleted"]


def test_limits_are_those_of_the_queues_and_change_while_they_run(yard):
    said("limit", "cuda:1", "training=2", "inference=5")
    limits = {(row["device"], row["kind"]): row["limit"] for row in document("limit")}
    assert limits["cuda:1", "training"] == 2
    assert limits["cuda:1", "inference"] == 5
    assert limits["cuda:0", "training"] == 1
    assert limits["cuda", "training"] is None
    assert limits["boxb/cuda:1", "training"] == 1
    queue = yard.api.call("GET", "/work_pools/gpu/queues/cuda:1.training")
    assert (queue["concurrency_limit"], queue["is_paused"]) == (2, False)
    assert [row["device"] for row in document("limit", "boxb/cuda:1")] == ["boxb/cuda:1"]
    said("limit", "cuda:1", "training=1", "inference=3")


def test_one_document_is_all_that_a_program_reads(yard):
    done = subprocess.run([YARD, "limit", "cuda:0", "--json"], capture_output=True, text=True, check=True)
    assert [row["queue"] for row in json.loads(done.stdout)] == ["cuda:0.inference", "cuda:0.training"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["cuda:0", "training"], "found 'training', need KIND=NUMBER such as training=2, from 0 to 1000; kinds"),
        (["cuda:0", "training=99999999999"], "found 'training=99999999999', need KIND=NUMBER"),
        (["cuda:0", "training=17"], "found 'training=17', need at most 16 runs at once, or --force"),
        (["cuda:0", "training=-1"], "found 'training=-1', need KIND=NUMBER"),
        (["cuda:0", "gaming=1"], "found 'gaming=1', need KIND=NUMBER"),
        (["cuda", "training=2"], "found device 'cuda', need one such as cuda:0"),
    ],
)
def test_a_wrong_limit_is_refused(yard, words, fault):
    with pytest.raises(ConfigError, match=f"^{fault}"):
        said("limit", *words)


def test_more_than_anybody_means_is_taken_when_it_is_meant(yard):
    said("limit", "cpu", "pipeline=40", "--force")
    assert {(row["device"], row["kind"]): row["limit"] for row in document("limit")}["cpu", "pipeline"] == 40
    said("limit", "cpu", "pipeline=16")


def test_the_number_of_pipelines_is_a_limit_of_the_cpu(yard):
    said("limit", "cpu", "pipeline=3")
    assert {(row["device"], row["kind"]): row["limit"] for row in document("limit")}["cpu", "pipeline"] == 3
    said("limit", "cpu", "pipeline=16")


@pytest.mark.parametrize("words", [["training=2"], []])
def test_a_limit_of_a_device_that_is_not_there_is_refused(yard, words):
    done = CliRunner().invoke(app, ["limit", "cuda:7", *words])
    assert isinstance(done.exception, GpuError)
    assert str(done.exception).startswith("found no device 'cuda:7' for training, have: boxb/cuda:1, cpu, cuda")


def test_a_waiting_run_gets_another_priority_and_keeps_the_rest(yard):
    run = training(yard, "moved", owner="anna@boxa", priority=5)
    yard.state(run["id"], "SCHEDULED", "Waiting", WAITS)
    said("priority", run["id"], 1, "--force")
    after = yard.read(run["id"])
    assert after["job_variables"] == {"owner": "anna@boxa", "priority": 1}
    assert (after["name"], after["parameters"], after["state_name"]) == ("moved", {"dataset": "/d"}, "Waiting")


def test_the_priority_of_a_pipeline_is_that_of_its_waiting_half(yard):
    run = yard.create("classification", name="mover", parameters={"data": "/d"})
    half = yard.child(run["id"], "train_classifier", name="moved half", parameters={"dataset": "/d"})
    yard.state(run["id"], "RUNNING")
    assert said("priority", "mover", 1) == f"run {half['id']} (moved half) has priority 1 now\n"
    yard.state(half["id"], "RUNNING")
    with pytest.raises(ConfigError, match="is Running: a priority counts while it waits"):
        said("priority", "mover", 2)


# The server.


def test_without_a_server_the_way_to_one_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="^no server: `yard up` starts one, or set PREFECT_API_URL$"), connect():
        pass


def test_a_server_that_is_gone_is_named_at_once(monkeypatch):
    url = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=f"no answer from {url} "), connect() as api:
        list_runs(api)
    assert time.monotonic() - begun < 5


def test_what_the_server_refuses_is_said_in_its_words(yard):
    with pytest.raises(ConfigError, match="Input should be"):
        yard.api.call("POST", "/flow_runs/filter", {"limit": "many"})
