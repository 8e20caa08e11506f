"""What a run logs arrives in MLflow, every row once, whatever dies."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from gpu_pools.placement.probe import SimulatedProbe
from tasks.base.errors import Interrupted, StopAsked, StorageError, TrackingError, TransferError
from tasks.store import sending
from tasks.tracking import mlflow_api
from tasks.tracking.journal import Card, Journal, read_card, write_card
from tasks.tracking.mlflow_names import flatten
from tasks.tracking.provenance import command_line, git_revision
from tasks.tracking.system import SystemSampler, gpu_samples
from tasks.tracking.tracker import Tracker
from tasks.tracking.unsent import find_unsent
from tasks.tracking.uploader import Uploader, upload

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("at_home")


def rows(run_id, key, uri=None):
    """Return the (step, value) pairs MLflow holds."""
    return sorted((m.step, m.value) for m in mlflow_api.client(uri).get_metric_history(run_id, key))


def test_a_run_arrives_whole(tmp_path):
    with Tracker.open(tmp_path / "run", "whole", "first", {"train": {"lr": 0.1}}, {"owner": "ann"}) as tracker:
        for epoch in range(1, 4):
            tracker.metrics({"loss/train": 1 / epoch, "top5": None}, step=epoch, timestamp_ms=1000 + epoch)
        tracker.tag("stage", "done")
    client = mlflow_api.client()
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params == {"train.lr": "0.1"}
    assert run.data.metrics == {"loss/train": 1 / 3}
    assert run.data.tags["owner"] == "ann"
    assert run.data.tags["stage"] == "done"
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["version.mlflow"].startswith("3.")
    times = [m.timestamp for m in client.get_metric_history(tracker.run_id, "loss/train")]
    assert sorted(times) == [1001, 1002, 1003]


def test_mlflow_knows_whose_run_it_is_and_what_it_waited_in(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_OWNER", "anna@boxa")
    monkeypatch.setenv("TRAINYARD_QUEUE", "cuda:1.training")
    monkeypatch.setenv("TRAINYARD_PRIORITY", "2")
    with Tracker.open(tmp_path / "run", "owned", "r", {}) as tracker:
        pass
    tags = mlflow_api.client().get_run(tracker.run_id).data.tags
    known = {name: tags[name] for name in ("mlflow.user", "owner", "queue", "priority")}
    assert known == {"mlflow.user": "anna@boxa", "owner": "anna@boxa", "queue": "cuda:1.training", "priority": "2"}


def test_values_that_are_not_finite_are_kept(tmp_path):
    with Tracker.open(tmp_path / "run", "odd", "r", {}) as tracker:
        tracker.metrics({"loss": float("nan")}, step=1)
    (row,) = rows(tracker.run_id, "loss")
    assert math.isnan(row[1])


def test_long_values_are_cut_and_kept_whole_in_a_file(tmp_path):
    with Tracker.open(tmp_path / "run", "long", "r", {"classes": ["x" * 100] * 100}) as tracker:
        pass
    client = mlflow_api.client()
    assert len(client.get_run(tracker.run_id).data.params["classes"]) == 6000
    path = client.download_artifacts(tracker.run_id, "config/params.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == {"classes": ["x" * 100] * 100}


def test_files_arrive_as_they_were_when_logged(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "a.txt").write_text("a")
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    with Tracker.open(tmp_path / "run", "files", "r", {}) as tracker:
        tracker.artifact(tmp_path / "table.csv", "tables")
        (tmp_path / "table.csv").unlink()
        tracker.artifact(tmp_path / "dir", "all")
        tracker.text("hello", "log.txt")
        tracker.image("samples/train", 1, tmp_path / "p.png")
    client = mlflow_api.client()
    names = {
        item.path for folder in ("", "tables", "all/sub") for item in client.list_artifacts(tracker.run_id, folder)
    }
    assert {"tables/table.csv", "all/sub/a.txt", "log.txt"} <= names
    images = [item.path for item in client.list_artifacts(tracker.run_id, "images")]
    assert sorted(Path(name).suffix for name in images) == [".png", ".webp"]
    assert all("samples~train+step+1+timestamp+" in name for name in images)
    assert client.get_run(tracker.run_id).data.tags["mlflow.loggedImages"] == "True"
    assert not (tmp_path / "run" / "outbox").exists()


def test_an_image_of_a_step_that_is_done_again_after_a_crash_is_there_once(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    for _ in range(2):
        with Tracker.open(tmp_path / "run", "images", "r", {}) as tracker:
            for step in (1, 2):
                tracker.image("samples", step, tmp_path / "p.png")
    images = mlflow_api.client().list_artifacts(tracker.run_id, "images")
    assert sorted(Path(item.path).name.split("+")[2] for item in images) == [
        "1",
        "1",
        "2",
        "2",
    ]  # each and its small copy


def test_data_sets_are_inputs_of_the_run(tmp_path):
    with Tracker.open(tmp_path / "run", "inputs", "r", {}) as tracker:
        for _ in range(2):
            tracker.input("drones", "/data/drones", "d" * 64, context="testing", profile={"images": 7})
    (found,) = mlflow_api.client().get_run(tracker.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("drones", "d" * 36)
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "testing")]
    assert json.loads(found.dataset.profile) == {"images": 7}


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ValueError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
        (Interrupted("x"), "KILLED"),
    ],
)
def test_how_a_run_ends_is_told(tmp_path, raised, status):
    tracker = Tracker.open(tmp_path / "run", "ends", "r", {})
    with pytest.raises(type(raised)), tracker:
        raise raised
    run = mlflow_api.client().get_run(tracker.run_id)
    assert run.info.status == status
    assert run.info.end_time is not None


def test_nothing_can_be_logged_after_the_end(tmp_path):
    with Tracker.open(tmp_path / "run", "ends", "r", {}) as tracker:
        pass
    with pytest.raises(TrackingError, match="has ended, found more to log: metrics"):
        tracker.metrics({"x": 1.0}, step=1)


def test_a_second_attempt_goes_on_in_the_same_run(tmp_path):
    first = Tracker.open(tmp_path / "run", "again", "r", {"lr": 1})
    first.metrics({"loss": 0.5}, step=1)
    first.end("FAILED")
    with Tracker.open(tmp_path / "run", "again", "r", {"lr": 1}) as second:
        assert second.run_id == first.run_id
        assert mlflow_api.client().get_run(second.run_id).info.status in {"RUNNING", "FAILED"}
        assert second.logged_steps("loss") == {1}
        second.metrics({"loss": 0.4, "acc": 0.9}, step=1)
        second.metrics({"loss": 0.3}, step=2)
    assert rows(second.run_id, "loss") == [(1, 0.5), (2, 0.3)]
    assert rows(second.run_id, "acc") == [(1, 0.9)]
    assert mlflow_api.client().get_run(second.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("n_known", [0, 2])
def test_what_another_host_has_sent_after_its_files_were_taken_is_not_sent_again(tmp_path, monkeypatch, n_known):
    monkeypatch.setenv("TRAINYARD_SHARED_DISK", "no")
    lost = Tracker.open(tmp_path / "lost", "moved", "r", {"lr": 1})
    for step in (1, 2, 3):
        if step == n_known + 1:
            lost.flush()
            shutil.copytree(tmp_path / "lost", tmp_path / "here")  # with its checkpoint
        lost.metrics({"loss": 1 / step}, step=step)
    lost.end("FAILED")
    with Tracker.open(tmp_path / "here", "moved", "r", {"lr": 1}) as here:
        assert here.run_id == lost.run_id
        assert here.logged_steps("loss") == {1, 2, 3}
        assert here.latest("loss") == 1 / 3
        for step in (n_known + 1, 3, 4):
            here.metrics({"loss": 1 / step}, step=step)
    assert rows(here.run_id, "loss") == [(step, 1 / step) for step in (1, 2, 3, 4)]


def test_what_a_lost_host_has_not_sent_is_left_to_the_one_that_goes_on(tmp_path, monkeypatch):
    with Tracker.open(tmp_path / "run", "left", "r", {}) as lost:
        lost.metrics({"loss": 0.5}, step=1)
        lost.leave_open()
    with closing(Journal(tmp_path / "run")) as journal:
        journal.append({"op": "metrics", "time": 1, "step": 2, "values": {"loss": 0.4}})
    monkeypatch.setattr("tasks.tracking.uploader.goes_on_elsewhere", lambda folder: folder == tmp_path / "run")
    assert upload(tmp_path / "run", "KILLED") == lost.run_id
    assert rows(lost.run_id, "loss") == [(1, 0.5)]
    assert mlflow_api.client().get_run(lost.run_id).info.status == "RUNNING"
    assert not find_unsent(tmp_path.name)


class Asked:
    """A run's files on their way to other hosts; the first question whether it is theirs is not answered."""

    def __init__(self) -> None:
        self.n = 0

    def check(self) -> None:
        self.n += 1
        if self.n == 1:
            raise TransferError("no answer")


def test_after_a_silence_it_is_asked_whose_run_it_is_before_anything_is_sent(tmp_path, monkeypatch):
    asked, send = Asked(), mlflow_api.send_metrics
    asked_before: list[int] = []

    def away_at_first(*args):
        asked_before.append(asked.n)
        if len(asked_before) == 1:
            raise ConnectionError("unplugged")
        send(*args)

    monkeypatch.setattr(sending, "_active", [asked])
    monkeypatch.setattr(mlflow_api, "send_metrics", away_at_first)
    with Tracker.open(tmp_path / "run", "silence", "r", {}) as tracker:
        tracker.metrics({"loss": 0.5}, step=1)
        tracker.flush()
        tracker.metrics({"loss": 0.4}, step=2)
    assert asked_before[:2] == [0, 2]
    assert asked.n == 2
    assert rows(tracker.run_id, "loss") == [(1, 0.5), (2, 0.4)]


def test_other_parameters_are_refused(tmp_path):
    with Tracker.open(tmp_path / "run", "again", "r", {"lr": 1}):
        pass
    with pytest.raises(TrackingError, match="lr=1, now it is 2"):
        Tracker.open(tmp_path / "run", "again", "r", {"lr": 2})


def test_what_is_free_to_change_may_and_the_first_values_stay_in_mlflow(tmp_path):
    def attempt(device, lr=1):
        params = {"train": {"device": device, "lr": lr}, "data": "d"}
        return Tracker.open(tmp_path / "run", "moved", "r", params, free_to_change={"train.device", "train.n_workers"})

    for device in ("cuda:1", "cuda:1"):
        with attempt(device) as tracker:
            tracker.leave_open()
        assert "resumed_with" not in mlflow_api.client().get_run(tracker.run_id).data.tags
    with attempt("cpu") as tracker:
        tracker.metrics({"loss": 0.5}, step=1)
    found = mlflow_api.client().get_run(tracker.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"train.device": "cuda:1", "train.lr": "1", "data": "d"}
    assert found.data.tags["resumed_with"] == "train.device=cpu"
    with pytest.raises(TrackingError, match=r"train\.lr=1, now it is 2"):
        attempt("cpu", lr=2)


def test_a_run_stopped_to_go_on_later_has_not_ended(tmp_path):
    tracker = Tracker.open(tmp_path / "run", "stopped", "r", {})
    with pytest.raises(StopAsked), tracker:
        tracker.metrics({"loss": 0.5}, step=1)
        raise StopAsked("as asked")
    found = mlflow_api.client().get_run(tracker.run_id)
    assert (found.info.status, found.data.metrics) == ("RUNNING", {"loss": 0.5})
    with Tracker.open(tmp_path / "run", "stopped", "r", {}) as again:
        assert again.run_id == tracker.run_id
    assert mlflow_api.client().get_run(tracker.run_id).info.status == "FINISHED"


def test_killed_before_the_id_was_written_down_it_finds_its_run(tmp_path):
    folder = tmp_path / "run"
    with Tracker.open(folder, "twin", "r", {}) as tracker:
        pass
    card = read_card(folder)
    write_card(folder, type(card)(card.token, card.experiment, card.run_name, card.started_ms))
    with Tracker.open(folder, "twin", "r", {}) as again:
        assert again.run_id == tracker.run_id


def test_a_torn_last_line_is_cut(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"op": "metrics", "n": 1})
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"op":"metr')
    journal = Journal(tmp_path)
    journal.append({"op": "metrics", "n": 2})
    assert [entry["n"] for entry, _ in journal.entries()] == [1, 2]
    journal.close()


def test_a_damaged_line_is_named_with_its_place(tmp_path):
    (tmp_path / "journal.jsonl").write_text('{"op":"begin"}\nxyz\n')
    journal = Journal(tmp_path)
    with pytest.raises(TrackingError, match="damaged at byte 15"):
        list(journal.entries())
    journal.close()


def test_a_full_disk_leaves_whole_lines_only(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tasks.base.errors import StorageError; from tasks.tracking.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "try:\n"
        "    while True: journal.append({'op': 'x' * 93})\n"
        "except StorageError: print(journal.path.stat().st_size)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) % len('{"op":"%s"}\n' % ("x" * 93)) == 0


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        Tracker.open(tmp_path / "file" / "run", "exp", "r", {})


def test_an_experiment_that_was_deleted_is_an_error_at_once(tmp_path):
    client = mlflow_api.client()
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(TrackingError, match=r"experiment 'gone' was deleted in MLflow at sqlite:"):
        Tracker.open(tmp_path / "run", "gone", "r", {})


def test_an_experiment_whose_files_only_a_server_reaches_is_an_error_at_once(tmp_path):
    mlflow_api.client().create_experiment("served", "mlflow-artifacts:/7")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI to that server's address"):
        Tracker.open(tmp_path / "run", "served", "r", {})


def test_a_run_that_was_deleted_is_an_error_at_once(tmp_path):
    with Tracker.open(tmp_path / "run", "deleted", "r", {}) as tracker:
        pass
    mlflow_api.client().delete_run(tracker.run_id)
    with pytest.raises(TrackingError, match="was deleted in MLflow"):
        Tracker.open(tmp_path / "run", "deleted", "r", {})


@pytest.mark.parametrize("name", ["loss/../x", "/loss", "a?b", "", "loss//train"])
def test_a_name_mlflow_refuses_is_refused_at_once(tmp_path, name):
    with Tracker.open(tmp_path / "run", "names", "r", {}) as tracker, pytest.raises(ValueError, match="metric name"):
        tracker.metrics({name: 1.0}, step=1)


def test_no_secret_is_logged():
    argv = ["yard", "--token", "abc", "--password=xyz", "uri=postgresql://ann:pw@box/db", "train.lr=1"]
    shown = command_line(argv)
    assert all(secret not in shown for secret in ("abc", "xyz", "pw@"))
    assert "train.lr=1" in shown
    assert flatten({"uri": "http://ann:pw@box"}) == {"uri": "http://***@box"}


@pytest.mark.parametrize(
    "words",
    [
        *(["--auth", "S3CRET"], ["--auth=S3CRET"], ["--token", "S3CRET"], ["PREFECT_API_AUTH_STRING=S3CRET"]),
        *(
            ["-H", "Authorization: Bearer S3CRET"],
            ["-HAuthorization:Basic S3CRET=="],
            ["Authorization:", "Bearer", "S3CRET"],
        ),
        *(["headers={'Authorization': 'Bearer S3CRET'}"], ["Bearer S3CRET.x-y_z"], ["http://box/?q=1&api_key=S3CRET"]),
        *(["uri=http://ann:S3CRET@box/x"], ["uri=http://ann:S3CRET@x@box"], ["https://:S3CRET@box"]),
        ["https://b.s3.amazonaws.com/x?X-Amz-Signature=S3CRET&X-Amz-Security-Token=S3CRET"],
    ],
)
def test_no_way_to_write_a_secret_gets_it_into_a_command(words):
    shown = command_line(["yard", *words, "train.lr=1"])
    assert "S3CRET" not in shown
    assert "***" in shown
    assert shown.endswith("train.lr=1")


@pytest.mark.parametrize("word", ["track.author=anna", "data=/data/basic training", "http://box/a@b", "--authors=anna"])
def test_what_is_no_secret_is_shown(word):
    assert "***" not in command_line(["yard", word])


def test_a_folder_outside_a_checkout_has_no_revision(tmp_path):
    assert git_revision(tmp_path) == (None, False)


def test_url_leads_to_the_run_or_to_the_command_that_shows_it():
    page = "#/experiments/1/runs/r?workflowType=machine_learning"
    assert mlflow_api.run_url("http://ann:pw@box:5000/", "1", "r") == f"http://box:5000/{page}"
    assert mlflow_api.run_url("http://ann:p@w@box:5000/", "1", "r") == f"http://box:5000/{page}"
    assert mlflow_api.run_url("sqlite:////x.db", "1", "r") == f"{mlflow_api.UI}/{page}"


def test_samples_are_numbered_on_after_a_restart(tmp_path):
    (gpu,) = SimulatedProbe(1).devices()
    for _ in range(2):
        with (
            Tracker.open(tmp_path / "run", "system", "r", {}) as tracker,
            SystemSampler(tracker, SimulatedProbe(1), [gpu.uuid], every_s=0.05),
        ):
            time.sleep(0.3)
    steps = [step for step, _ in rows(tracker.run_id, "system/cpu_percent")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 4
    assert rows(tracker.run_id, "system/gpu_memory_mib")[0] == (0, 0.0)
    assert rows(tracker.run_id, "system/memory_mib")[0][1] > 50


def test_a_gpu_that_is_gone_does_not_end_the_samples(tmp_path, caplog):
    with (
        Tracker.open(tmp_path / "run", "system", "r", {}) as tracker,
        SystemSampler(tracker, SimulatedProbe(0), ["GPU-gone"], every_s=0.02),
    ):
        time.sleep(0.2)
    assert len(tracker.logged_steps("system/cpu_percent")) >= 2
    assert caplog.text.count("no metrics of the GPU") == 1


def test_each_of_several_gpus_has_its_metrics():
    probe = SimulatedProbe(3)
    first, _, third = probe.devices()
    keys = gpu_samples(probe, [first.uuid, third.uuid]).keys()
    assert {"system/gpu0_power_w", "system/gpu1_power_w", "system/gpu1_memory_mib"} < keys
    assert len(keys) == 8


WRITER = """
import sys, time
from pathlib import Path
from tasks.tracking.tracker import Tracker
with Tracker.open(Path(sys.argv[1]), "killed", "r", {"lr": 1}) as tracker:
    start = max(tracker.logged_steps("loss"), default=0) + 1
    print("at", start, flush=True)
    for step in range(start, int(sys.argv[2]) + 1):
        tracker.metrics({"loss": 1 / step, "acc": step}, step=step)
        time.sleep(0.002)
    print("id", tracker.run_id, flush=True)
"""


def _writer(folder, last):
    argv = [sys.executable, "-c", WRITER, str(folder), str(last)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_writer_killed_and_started_again_misses_nothing_and_repeats_nothing(tmp_path):
    folder = tmp_path / "run"
    first = _writer(folder, 10**6)
    assert first.stdout.readline().startswith("at 1")
    time.sleep(1.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    n = sum(entry["op"] == "metrics" for entry, _ in Journal(folder).entries())
    second = _writer(folder, n + 200)
    out, _ = second.communicate(timeout=60)
    assert out.startswith(f"at {n + 1}\n")
    run_id = out.split()[-1]
    assert rows(run_id, "loss") == [(step, 1 / step) for step in range(1, n + 201)]
    assert len(rows(run_id, "acc")) == n + 200
    client = mlflow_api.client()
    experiment = client.get_experiment_by_name("killed").experiment_id
    assert [run.info.run_id for run in client.search_runs([experiment])] == [run_id]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_second_process_may_not_write_the_same_run(tmp_path):
    first = _writer(tmp_path / "run", 10**6)
    try:
        first.stdout.readline()
        with pytest.raises(TrackingError, match=f"process {first.pid} still writes"):
            upload(tmp_path / "run")
    finally:
        first.kill()
        first.wait()
    run_id = upload(tmp_path / "run", "KILLED")
    assert mlflow_api.client().get_run(run_id).info.status == "KILLED"
    assert upload(tmp_path / "run", "FAILED") == run_id
    assert mlflow_api.client().get_run(run_id).info.status == "KILLED"


def test_sending_needs_a_run(tmp_path):
    with pytest.raises(TrackingError, match="found no run"):
        upload(tmp_path)


class Server:
    """A real `mlflow server` on its own port, which can be killed and started again."""

    def __init__(self, home):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.home = home
        self.process = None

    def start(self):
        """Start it without waiting."""
        lines = (ROOT / "mlflow" / "server.env").read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server"],
            env={
                **os.environ,
                **settings,
                "MLFLOW_PORT": str(self.port),
                "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.home}/mlflow/mlflow.db",
                "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"{self.home}/mlflow/artifacts",
            },
            cwd=self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self):
        """Return when it answers."""
        limit = time.monotonic() + 90
        while time.monotonic() < limit:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(self.uri)

    def kill(self):
        """Kill it with all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(home):
    """A server on the same database."""
    server = Server(home)
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.mark.long
def test_a_server_killed_in_the_middle_costs_neither_time_nor_a_row(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    took = []
    with Tracker.open(tmp_path / "run", "outage", "r", {}) as tracker:
        for step in range(600):
            begin = time.perf_counter()
            tracker.metrics({f"part{i}/x": step + i / 10 for i in range(15)}, step=step)
            took.append(time.perf_counter() - begin)
            if step == 200:
                server.kill()
            if step == 400:
                server.start()
            time.sleep(0.003)
        tracker.text("late", "late.txt")
        page = tracker.url
    assert page.startswith(f"{server.uri}/#/experiments/")
    server.wait()
    upload(tmp_path / "run")  # on a busy machine the server may need longer than a run waits for it at its end
    for i in (0, 14):
        assert rows(tracker.run_id, f"part{i}/x", server.uri) == [(step, step + i / 10) for step in range(600)]
    assert mlflow_api.client(server.uri).get_run(tracker.run_id).info.status == "FINISHED"
    assert sorted(took)[int(0.99 * len(took))] < 0.05


def test_with_mlflow_down_a_run_starts_and_ends_and_can_be_sent_later(server, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setattr("tasks.tracking.tracker._CONNECT_S", 0.2)
    monkeypatch.setattr("tasks.tracking.tracker._KILLED_PATIENCE_S", 0.2)
    tracker = Tracker.open(tmp_path / "run", "later", "r", {"lr": 1})
    tracker.metrics({"loss": 0.5}, step=1)
    with pytest.raises(TrackingError, match="did not take all of the run"):
        _ = tracker.run_id
    with pytest.raises(KeyboardInterrupt) as caught, tracker:
        raise KeyboardInterrupt
    (note,) = caught.value.__notes__
    assert str(tmp_path / "run" / "journal.jsonl") in note
    assert f"`yard sync {tmp_path.name}`" in note
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.wait()
    run_id = upload(tmp_path / "run")
    assert upload(tmp_path / "run") == run_id
    run = mlflow_api.client(server.uri).get_run(run_id)
    assert (run.info.status, run.data.params, run.data.metrics) == ("KILLED", {"lr": "1"}, {"loss": 0.5})


def test_files_of_runs_without_the_server_are_served_by_it(server, tmp_path):
    with Tracker.open(tmp_path / "run", "shared", "r", {}) as tracker:
        tracker.text("seen", "log.txt")
    server.wait()
    page = f"{server.uri}/get-artifact?path=log.txt&run_uuid={tracker.run_id}"
    assert urllib.request.urlopen(page, timeout=30).read() == b"seen"


def test_a_run_without_the_server_may_use_an_experiment_made_through_it(server, tmp_path, monkeypatch):
    server.wait()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with Tracker.open(tmp_path / "a", "mixed", "r", {}):
        pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with Tracker.open(tmp_path / "b", "mixed", "r", {}) as tracker:
        tracker.text("x", "x.txt")
    assert [item.path for item in mlflow_api.client().list_artifacts(tracker.run_id)] == ["config", "x.txt"]


def test_a_large_file_that_is_still_under_way_is_waited_for(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"op": "begin", "time": 0})
    uploader = Uploader(tmp_path, Card("t", "e", "r", 0), journal, "sqlite://")  # not started: nothing ever arrives
    begin = time.monotonic()
    assert not uploader.flush(patience_s=0.1, longest_s=0.6)
    assert time.monotonic() - begin > 0.5
    uploader.error = OSError("no answer")
    assert not uploader.flush(patience_s=0.1, longest_s=30)
    journal.close()


def test_what_a_killed_writer_had_half_written_goes_at_the_next_start(tmp_path):
    torn = tmp_path / ".sent.json.ab12cd_3"
    torn.write_text("{")
    Journal(tmp_path).close()
    assert not torn.exists()


def test_a_database_that_several_open_first_at_once_is_whole(tmp_path):
    make = "client('sqlite:///' + sys.argv[1]).create_experiment(sys.argv[2])"
    code = f"import sys; from tasks.tracking.mlflow_api import client; {make}"
    argv = [sys.executable, "-c", code, str(tmp_path / "new.db")]
    opening = [subprocess.Popen([*argv, f"e{n}"], cwd=ROOT) for n in range(3)]
    assert [process.wait(120) for process in opening] == [0, 0, 0]
    found = mlflow_api.client(f"sqlite:///{tmp_path / 'new.db'}").search_experiments()
    assert {one.name for one in found} == {"Default", "e0", "e1", "e2"}
