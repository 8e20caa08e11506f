"""What is sent to another yard arrives as it was, once, whatever is cut off; its run is told to who sent it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.inbox import arriving, mlflow_http, parcel, uploading
from deployments.inbox import take as taker
from deployments.inbox.arriving import Arrivals, fetch
from deployments.inbox.mlflow_http import MlflowHttp
from deployments.inbox.parcel import PART_BYTES, describe, read_manifest
from deployments.inbox.places import done, fetching, items, make_inbox, rejected, taking
from deployments.inbox.serve import Inbox
from deployments.inbox.settling import Settling
from deployments.services.service import ServiceError
from tasks.base.errors import ConfigError, DatasetError
from tasks.base.servers.password import CLIENT, make_password, password
from tests.deployments.inbox.drops import images, zipped
from tests.deployments.inbox.test_inbox import FLOW, runs

BIG = 2 * PART_BYTES + 12_345


@pytest.fixture
def mlflow(yard, tracking, monkeypatch):
    """The MLflow server of all tests, with the uploads of this one."""
    monkeypatch.setattr(mlflow_http, "EXPERIMENT", f"uploads-{uuid4()}")
    make_inbox([FLOW])
    return MlflowHttp(tracking)


def manifest_of(path, **parameters):
    return describe(path, flow=FLOW, owner="anna@laptop", parameters=parameters)


def big_file(tmp_path):
    path = tmp_path / "room.mp4"
    path.write_bytes(os.urandom(BIG))
    return path


def receive(mlflow, n=2):
    """Let the yard do what it does, in this process."""
    arrivals = Arrivals(mlflow.url, lambda upload: fetch(mlflow, mlflow.run(upload)))
    clock = iter(range(0, 10_000, 100))
    served = Inbox(Settling(0), taker.take, arrivals.turn, clock=lambda: next(clock))
    for _ in range(n):
        served.turn()


def test_a_file_arrives_as_it_was_and_becomes_a_run(yard, mlflow, tmp_path):
    path = big_file(tmp_path)
    steps = []
    manifest = manifest_of(path, split={"seed": 4})
    upload = uploading.send(mlflow, path, manifest, lambda done, of: steps.append((done, of)))
    assert steps == [(PART_BYTES, BIG), (2 * PART_BYTES, BIG), (BIG, BIG)]
    receive(mlflow)
    run = yard.read(uploading.await_run(mlflow, upload["id"], 0))
    ((folder, item),) = items(done())
    assert (item.run, item.upload, item.name) == (run["id"], upload["id"], "room.mp4")
    assert run["parameters"] == {"data": str(folder / "data" / "room.mp4"), "split": {"seed": 4}}
    assert run["job_variables"]["owner"] == "anna@laptop"
    assert (folder / "data" / "room.mp4").read_bytes() == path.read_bytes()
    assert mlflow.run(upload["id"])["status"] == "FINISHED"
    again = uploading.send(mlflow, path, manifest)
    assert again["id"] == upload["id"]  # not a second time
    receive(mlflow)
    assert len(runs(yard, "room-")) == 1


def test_a_folder_arrives_as_it_was(yard, mlflow, tmp_path):
    folder = images(tmp_path / "sent")
    (folder / "calm" / "link.png").symlink_to("0.png")
    manifest = manifest_of(folder)
    os.utime(folder / "calm" / "0.png", (1, 1))
    assert manifest_of(folder) == manifest  # of the content alone
    upload = uploading.send(mlflow, folder, manifest)
    receive(mlflow)
    data = Path(yard.read(uploading.await_run(mlflow, upload["id"], 0))["parameters"]["data"])
    assert {p.relative_to(data): p.read_bytes() for p in data.rglob("*.png")} == {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.png")
    }
    assert [path.name for path in data.parents[1].iterdir() if path.name.startswith("parcel")] == []


def test_an_archive_goes_the_way_of_the_inbox_from_there_on(yard, mlflow, tmp_path):
    zipped(images(tmp_path / "packed"), tmp_path / "packed.zip")
    upload = uploading.send(mlflow, tmp_path / "packed.zip", manifest_of(tmp_path / "packed.zip"))
    receive(mlflow)
    run = yard.read(uploading.await_run(mlflow, upload["id"], 0))
    assert run["parameters"]["data"].endswith("/unpacked/packed")


def test_what_was_cut_off_goes_on_with_what_is_missing(mlflow, tmp_path, monkeypatch):
    path = big_file(tmp_path)
    manifest = manifest_of(path)

    def cut_off(done, of):
        if done > PART_BYTES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uploading.send(mlflow, path, manifest, cut_off)
    receive(mlflow)
    assert list(items(done())) == []  # nothing half
    sent = []
    put = MlflowHttp.put
    monkeypatch.setattr(
        MlflowHttp, "put", lambda self, run, name, data: (sent.append(name), put(self, run, name, data))
    )
    upload = uploading.send(mlflow, path, manifest)
    assert sent == [f"parts/{manifest.file_of(2)}"]
    assert upload["tags"]["upload.state"] == uploading.SENT


def test_a_server_that_stops_answering_is_asked_again_and_then_named(mlflow, tmp_path, monkeypatch):
    path = big_file(tmp_path)
    manifest = manifest_of(path)
    put, n_faults = MlflowHttp.put, []

    def flaky(self, run, name, data):
        if len(n_faults) < 2:
            n_faults.append(name)
            raise ServiceError("no answer")
        return put(self, run, name, data)

    monkeypatch.setattr(uploading, "_PAUSES_S", (0, 0, 0))
    monkeypatch.setattr(MlflowHttp, "put", flaky)
    assert uploading.send(mlflow, path, manifest)["tags"]["upload.state"] == uploading.SENT
    with pytest.raises(ServiceError, match="no answer from MLflow at http://127.0.0.1:9"):
        uploading.send(MlflowHttp("http://127.0.0.1:9"), path, manifest)


def test_a_file_that_changes_while_it_is_sent_is_refused(mlflow, tmp_path):
    path = big_file(tmp_path)
    manifest = manifest_of(path)
    path.write_bytes(b"other" * 1000)
    with pytest.raises(DatasetError, match="has changed while it was sent"):
        uploading.send(mlflow, path, manifest)


def rejected_with(mlflow, upload):
    receive(mlflow)
    with pytest.raises(DatasetError, match="^the yard has rejected it: ") as caught:
        uploading.await_run(mlflow, upload["id"], 0)
    assert mlflow.run(upload["id"])["status"] == "FAILED"
    assert list(taking().iterdir()) == [] == list(items(done()))
    return str(caught.value)


def test_a_part_that_arrives_damaged_is_said_and_sent_anew(mlflow, tmp_path):
    path = big_file(tmp_path)
    manifest = manifest_of(path)
    upload = uploading.send(mlflow, path, manifest)
    mlflow.put(upload["id"], f"parts/{manifest.file_of(1)}", b"x" * PART_BYTES)
    assert "part 2 of 3 has arrived damaged: send it again" in rejected_with(mlflow, upload)
    ((folder, item),) = items(rejected())
    assert "part 2 of 3" in (folder / "why.txt").read_text()
    again = uploading.send(mlflow, path, manifest)
    assert again["id"] != upload["id"]
    receive(mlflow)
    assert uploading.await_run(mlflow, again["id"], 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "../../etc/evil"}, "found the name '../../etc/evil', need a plain one"),
        ({"name": ".bashrc"}, "need a plain one that begins with no dot"),
        ({"name": 5}, "need names, sizes and digests that fit"),
        ({"n_bytes": 1 << 60}, "need names, sizes and digests that fit"),
        ({"parts": ["../../x"]}, "need names, sizes and digests that fit"),
        ({"kind": "device"}, "need names, sizes and digests that fit"),
        ({"more": 1}, "found no manifest of an upload"),
        ({"flow": "train_classifier"}, "found no flow 'train_classifier'"),
        ({"parameters": {"split": {"seeed": 1}}}, "split.seeed: found 1: Extra inputs are not permitted"),
        ({"parameters": {"data": "/etc"}}, "found data in parameters.yaml"),
    ],
)
def test_a_manifest_that_lies_is_rejected(mlflow, tmp_path, change, why):
    path = tmp_path / "small.mp4"
    path.write_bytes(os.urandom(1000))
    manifest = manifest_of(path)
    upload = uploading._begin(mlflow, manifest)
    mlflow.put(upload["id"], f"parts/{manifest.file_of(0)}", path.read_bytes())
    mlflow.put(upload["id"], "upload.json", json.dumps({**json.loads(manifest.as_bytes()), **change}).encode())
    mlflow.tag(upload["id"], upload_state=uploading.SENT)
    assert why in rejected_with(mlflow, upload)


def test_where_the_yard_has_a_password_an_upload_must_know_it(yard, mlflow, tmp_path, monkeypatch):
    path = big_file(tmp_path)
    manifest = manifest_of(path)
    make_password()
    monkeypatch.setenv(CLIENT, "yard:guessed")
    upload = uploading.send(mlflow, path, manifest)
    monkeypatch.delenv(CLIENT)
    assert f"without the yard's password: set {CLIENT} where it is sent" in rejected_with(mlflow, upload)
    monkeypatch.setenv(CLIENT, password())
    upload = uploading.send(mlflow, path, manifest)
    monkeypatch.delenv(CLIENT)
    receive(mlflow)
    assert uploading.await_run(mlflow, upload["id"], 0)


def test_an_upload_that_nobody_finishes_is_given_up_after_a_week(mlflow, tmp_path, monkeypatch):
    path = big_file(tmp_path)
    upload = uploading._begin(mlflow, manifest_of(path))
    receive(mlflow)
    assert mlflow.run(upload["id"])["tags"]["upload.state"] == uploading.SENDING
    monkeypatch.setattr(arriving, "_UNFINISHED_S", -10)
    receive(mlflow)
    assert "was not finished in seven days" in rejected_with(mlflow, upload)


def test_a_folder_that_leads_outwards_is_not_sent(tmp_path):
    folder = images(tmp_path / "out")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(DatasetError, match="link: a link that leads out of it"):
        manifest_of(folder)
    with pytest.raises(DatasetError):
        read_manifest(b"[" * 100_000)


def test_the_command_says_what_is_wrong_before_anything_is_sent(mlflow, tmp_path, monkeypatch):
    path = tmp_path / "room.mp4"
    path.write_bytes(b"1")

    def said(*words):
        return CliRunner().invoke(app, ["upload", *map(str, words)]).exception

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    assert "split.seeed: found 1" in str(said(path, "--flow", FLOW, "split.seeed=1"))
    assert "found data=..., which is what is sent" in str(said(path, "--flow", FLOW, "data=/d"))
    assert "found nothing at" in str(said(tmp_path / "gone", "--flow", FLOW))
    assert "takes no data" in str(said(path, "--flow", "serve"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert isinstance(said(path, "--flow", FLOW), ConfigError)


DRIVER = """
import signal, sys
from deployments.runs.flow_list import load_flow
from tests.deployments.inbox.kills import child
from tests.deployments.inbox.test_upload import *
load_flow(FLOW)
mlflow, source = MlflowHttp(sys.argv[2]), images(Path(sys.argv[1]) / "source")

def turns():
    receive(mlflow, 3)

step = 0
while True:
    step += 1
    manifest = manifest_of(source, split={"seed": step})
    upload = uploading.send(mlflow, source, manifest)
    status = child(turns, step, "urllib.Request")
    assert status in {0, signal.SIGKILL}, status
    assert child(turns, 0) == 0
    print(upload["id"], uploading.await_run(mlflow, upload["id"], 0))
    if status == 0:
        break
"""


def test_killed_at_every_step_of_its_arrival_each_becomes_one_run(yard, mlflow, tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tmp_path), mlflow.url]
    ran = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = dict(line.split() for line in ran.stdout.splitlines())
    assert len(told) > 20
    assert {item.upload: item.run for _, item in items(done())} == told
    assert sorted(told.values()) == sorted(run["id"] for run in runs(yard, "source-"))
    assert list(taking().iterdir()) == [] == list(items(rejected()))
    assert not fetching("x").exists()
    for number, upload in enumerate(told, start=1):
        parameters = yard.read(told[upload])["parameters"]
        assert parameters["split"] == {"seed": number}
        assert len(list(Path(parameters["data"]).rglob("*.png"))) == 12


def test_the_parts_have_the_digests_of_the_file(tmp_path):
    path = big_file(tmp_path)
    manifest = manifest_of(path)
    data = path.read_bytes()
    cuts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    assert list(parcel.cut(path)) == cuts
    assert manifest.parts == [hashlib.sha256(part).hexdigest() for part in cuts]
    assert [manifest.size_of(n) for n in range(3)] == [len(part) for part in cuts]
