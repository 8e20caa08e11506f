"""A run comes into the queue of its device as its owner meant it, or not at all."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from typer.testing import CliRunner

from deployments.api import Api, connect
from deployments.cli.app import app
from deployments.runs.submit import Order, Wishes, prepare, submit, submit_many
from deployments.stack.draining import announce, withdraw
from gpu_pools.names import asker, host_name
from tasks.base.errors import ConfigError, GpuBusyError, GpuError, StorageError, TrainyardError

HERE = [f"{host_name()}/{tag}" for tag in ("cpu", "cuda", "cuda:0", "cuda:1")]
ALL_TRAINING = ", ".join(sorted(["boxb/cuda:1", "cpu", "cuda", "cuda:0", "cuda:1", *HERE]))


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The current folder, with a folder of images in it."""
    (tmp_path / "work" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work" / "images"


def submitted(yard, *words):
    """Return the run that `yard submit` created, as the server has it."""
    done = CliRunner().invoke(app, ["submit", *words, "--json"])
    if isinstance(done.exception, TrainyardError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return yard.read(json.loads(done.stdout)["id"])


def count(yard):
    return yard.api.call("POST", "/flow_runs/count", {})


# Where it waits.


@pytest.mark.parametrize(
    ("flow", "words", "queue", "device"),
    [
        ("train_classifier", [], "cuda.training", None),
        ("train_classifier", ["--device", "cuda:1"], "cuda:1.training", "cuda:1"),
        ("train_classifier", ["--device", "cpu"], "cpu.training", "cpu"),
        ("train_classifier", ["--device", "cuda"], "cuda.training", "cuda"),
        ("train_classifier", ["--device", "boxb/cuda:1"], "boxb.cuda:1.training", "cuda:1"),
        ("train_classifier", ["train.device=cuda:0"], "cuda:0.training", "cuda:0"),
        ("train_classifier", ["train.device=cuda:0", "--device", "cpu"], "cpu.training", "cpu"),
        ("classification", ["--device", "cuda:1"], "cpu.pipeline", "cuda:1"),
        ("classification", ["--device", "boxb/cuda:1"], "cpu.pipeline", "boxb/cuda:1"),
        ("classification", ["--set", "train.device=cpu"], "cpu.pipeline", "cpu"),
        ("classification", [], "cpu.pipeline", None),
        ("prepare_dataset", [], "cpu.preparation", None),
        ("prepare_dataset", ["--device", "cpu"], "cpu.preparation", None),
    ],
)
def test_the_device_leads_to_the_queue_and_into_the_parameters(yard, images, flow, words, queue, device):
    data = "dataset=images" if flow == "train_classifier" else "data=images"
    run = submitted(yard, flow, data, *words)
    assert run["work_queue_name"] == queue
    assert run["parameters"].get("train", {}).get("device") == device


@pytest.mark.parametrize(
    ("flow", "device", "fault"),
    [
        ("train_classifier", "cuda:7", f"found no device 'cuda:7' for training, have: {ALL_TRAINING}"),
        ("train_classifier", "gpu", f"found no device 'gpu' for training, have: {ALL_TRAINING}"),
        ("classification", "boxc/cuda:0", f"found no device 'boxc/cuda:0' for training, have: {ALL_TRAINING}"),
        ("prepare_dataset", "cuda", f"found no device 'cuda' for preparation, have: cpu, {host_name()}/cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(yard, images, flow, device, fault):
    before = count(yard)
    data = "dataset=images" if flow == "train_classifier" else "data=images"
    with pytest.raises(GpuError) as caught:
        submitted(yard, flow, data, "--device", device)
    assert str(caught.value) == fault
    assert count(yard) == before


@pytest.mark.parametrize("flow", ["train_classifier", "classification"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["train.n_devices=3"], f"1 on boxb, 2 on {host_name()}"),
        (["train.n_devices=2", "--device", f"{host_name()}/cuda"], ""),
        (["train.n_devices=3", "--device", f"{host_name()}/cuda"], f"2 on {host_name()}"),
        (["train.n_devices=2"], ""),
    ],
)
def test_more_gpus_than_a_host_has_are_refused_before_anything_is_prepared(yard, images, flow, words, found):
    data = "dataset=images" if flow == "train_classifier" else "data=images"
    if not found:
        assert submitted(yard, flow, data, *words)["parameters"]["train"]["n_devices"] == 2
        return
    with pytest.raises(GpuError) as caught:
        submitted(yard, flow, data, *words)
    assert str(caught.value) == f"found GPUs: {found}; need 3 of one host for n_devices 3"


# What it is given.


def test_parameters_are_typed_nested_and_only_those_given(yard, images):
    run = submitted(yard, "classification", "data=images", "train.num_epochs=3", "--set", "train.learning_rate=1e-3")
    assert run["parameters"] == {"data": str(images), "train": {"num_epochs": 3, "learning_rate": 0.001}}


def test_a_file_of_rfuav_is_taken_with_its_device_and_its_relative_paths(yard, images):
    Path("config.yaml").write_text(
        "train: images\nval: images\nmodel: resnet18\nweights: None\nimage_size: (64, 64)\n"
        "device: cuda:1\nepochs: 5\nlr: 1e-3\noptimizer: Adam\nsave_path: out\n"
    )
    run = submitted(yard, "classification", "-f", "config.yaml", "train.num_epochs=2")
    assert run["parameters"]["train"] == {
        "train_path": str(images),
        "val_path": str(images),
        "model": "resnet18",
        "weight_path": None,
        "image_size": 64,
        "device": "cuda:1",
        "num_epochs": 2,
        "learning_rate": 0.001,
        "optimizer": "adam",
        "save_path": str(images.parent / "out"),
    }


def test_a_table_of_groups_is_found_from_elsewhere_too(yard, images):
    Path("groups.csv").write_text("path,group\n")
    run = submitted(yard, "prepare_dataset", "data=images", "split.group_by=groups.csv")
    assert run["parameters"]["split"] == {"group_by": str(images.parent / "groups.csv")}


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["classify"], "found no flow 'classify', have: "),
        (["prepare_dataset"], "data: found nothing, need a value"),
        (["prepare_dataset", "data=none"], "found nothing at none, need the data there"),
        (["prepare_dataset", "images"], "found 'images', need NAME=VALUE such as train.num_epochs=3"),
        (["classification", "data=images", "train.num_epochs=0"], "train.num_epochs: found 0: Input should be greater"),
        (["classification", "data=images", "train.epochs=3"], "train.epochs: found 3: Extra inputs are not permitted"),
        (["classification", "data=images", "--time-limit", "5x"], "found duration '5x', need a number above 0"),
        (["classification", "data=images", "--at", "noon"], "found the time 'noon', need one such as"),
        (["classification", "data=images", "--at", "2020-01-01 08:00"], "found the time 2020-01-01 08:00, need one to"),
        (["classification", "data=images", "--watch"], "found --watch and --json, need one of them"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_created(yard, images, words, fault):
    before = count(yard)
    with pytest.raises(ConfigError) as caught:
        submitted(yard, *words)
    assert str(caught.value).startswith(fault)
    assert count(yard) == before


# How it is treated.


def test_a_variable_that_no_run_may_set_is_refused_before_anything_is_created(yard, images):
    order = prepare(yard.api, "prepare_dataset", {"data": str(images)}, Wishes())
    theirs = Order(order.deployment, {**order.body, "job_variables": {"env": {"LD_PRELOAD": "/tmp/x.so"}}})
    for create in (lambda: submit(yard.api, theirs), lambda: submit_many(yard.api, [theirs])):
        with pytest.raises(ConfigError, match="env: found LD_PRELOAD, a run may set"):
            create()
    path = f"/deployments/{yard.deployment('prepare_dataset')}"
    yard.api.call("PATCH", path, {"job_variables": {"env": {"PYTHONPATH": "/tmp"}}})
    try:
        with pytest.raises(ConfigError, match="env: found PYTHONPATH"):
            prepare(yard.api, "prepare_dataset", {"data": str(images)}, Wishes())
    finally:
        yard.api.call("PATCH", path, {"job_variables": {}})


def test_wishes_become_job_variables(yard, images):
    run = submitted(
        *(yard, "train_classifier", "dataset=images", "--priority", "1", "--time-limit", "5h"),
        *("--owner", "anna@boxa", "--name", "mine"),
    )
    assert run["job_variables"] == {"owner": "anna@boxa", "priority": 1, "time_limit": "5h"}
    assert run["name"] == run["parameters"]["track"]["run_name"] == "mine"


def test_who_asks_is_who_a_setting_or_a_parameter_names(yard, images, monkeypatch):
    monkeypatch.setenv("TRAINYARD_OWNER", "lab@boxz")
    assert submitted(yard, "prepare_dataset", "data=images")["job_variables"]["owner"] == "lab@boxz"
    run = submitted(yard, "train_classifier", "dataset=images", "track.owner=ben")
    assert run["job_variables"]["owner"] == "ben"


def test_a_run_belongs_to_who_submits_it_and_is_named_after_its_data(yard, images):
    run = submitted(yard, "prepare_dataset", "data=images")
    assert run["job_variables"]["owner"] == asker()
    assert run["name"] == "prepare_dataset-images"
    assert submitted(yard, "serve", "model=images", "--device", "cuda:0")["name"] == "serve-images"


def test_a_time_can_be_booked(yard, images):
    at = datetime.now(UTC) + timedelta(days=2)
    run = submitted(yard, "prepare_dataset", "data=images", "--at", at.isoformat())
    assert datetime.fromisoformat(run["next_scheduled_start_time"]) == at
    done = CliRunner().invoke(app, ["runs", "--waiting", "--limit", "200"])
    assert f"booked for {at.astimezone():%Y-%m-%d %H:%M}" in done.stdout


def test_a_person_reads_id_state_and_page(yard, images):
    done = CliRunner().invoke(app, ["submit", "prepare_dataset", "data=images", "--name", "seen"])
    first, second, third = done.stdout.splitlines()
    run_id = first.split()[1]
    assert first == f"run {run_id} (seen) in queue cpu.preparation"
    assert second == "Scheduled: no worker has looked at it yet"
    assert third == f"{yard.api.url.removesuffix('/api')}/runs/flow-run/{run_id}"


def decide(name, kind, message=None):
    """Put the run of that name into a state as a worker would, as soon as it is there."""

    def work():
        with connect() as api:
            while not (found := list(api.pages("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}}))):
                time.sleep(0.2)
            state = {"type": kind, "message": message}
            api.call("POST", f"/flow_runs/{found[0]['id']}/set_state", {"state": state, "force": True})

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_who_submits_while_the_yard_drains_is_told(yard, images):
    announce(yard.api.url)
    announce(yard.api.url)  # by a second stack, say
    try:
        sentence = r"the yard drains since \d\d:\d\d: what runs goes on, what waits starts after the next `yard up`"
        done = CliRunner().invoke(app, ["submit", "classification", f"data={images}"])
        assert re.fullmatch(f"note: {sentence}", done.stdout.splitlines()[-1])
        done = CliRunner().invoke(app, ["submit", "classification", f"data={images}", "--json"])
        assert re.fullmatch(sentence, json.loads(done.stdout)["note"])
    finally:
        withdraw(yard.api.url)
    done = CliRunner().invoke(app, ["submit", "classification", f"data={images}", "--json"])
    assert json.loads(done.stdout)["note"] is None


def test_who_does_not_want_to_wait_is_refused_with_the_sentence(yard, images):
    worker = decide("hurried", "CANCELLED", "cuda:0 is training rfuav of anna@boxa")
    with pytest.raises(GpuBusyError, match="^cuda:0 is training rfuav of anna@boxa$"):
        submitted(yard, "train_classifier", "dataset=images", "--when-busy", "refuse", "--name", "hurried")
    worker.join()


def test_who_does_not_want_to_wait_and_need_not_gets_his_run(yard, images):
    worker = decide("lucky", "PENDING")
    run = submitted(yard, "train_classifier", "dataset=images", "--when-busy", "refuse", "--name", "lucky")
    worker.join()
    assert (run["state_type"], run["job_variables"]["when_busy"]) == ("PENDING", "refuse")


def test_what_will_not_fit_on_the_disk_is_refused_with_both_numbers(yard, images, monkeypatch):
    monkeypatch.setenv("TRAINYARD_MIN_FREE", "99%")
    with pytest.raises(StorageError, match=r"need about [0-9.]+ GB of disk for .*found [0-9.]+ GB free at .*free room"):
        submitted(yard, "train_classifier", f"dataset={images}", "train.model=resnet152", "--name", "large")
    monkeypatch.setenv("TRAINYARD_MIN_FREE", "0")
    assert submitted(yard, "train_classifier", f"dataset={images}", "train.model=resnet152")["name"] != "large"


# Many at once.


def test_twenty_people_at_once_all_get_their_run(yard, images):
    def one(n):
        with connect() as api:
            order = prepare(api, "prepare_dataset", {"data": str(images)}, Wishes(name=f"rush-{n}", owner="rush@x"))
            ready.wait()
            return submit(api, order)["id"]

    ready = threading.Barrier(20)
    with ThreadPoolExecutor(20) as pool:
        ids = list(pool.map(one, range(20)))
    assert len(set(ids)) == 20
    assert {yard.read(run_id)["name"] for run_id in ids} == {f"rush-{n}" for n in range(20)}


def test_many_runs_come_in_few_calls_and_in_order(yard, images, monkeypatch):
    monkeypatch.setattr("deployments.runs.submit.BULK", 4)
    orders = [prepare(yard.api, "prepare_dataset", {"data": str(images)}, Wishes(name="first"))]
    orders += [Order(orders[0].deployment, {**orders[0].body, "name": f"bulk-{n}"}) for n in range(8)]
    ids = submit_many(yard.api, orders)
    assert [yard.read(run_id)["name"] for run_id in ids] == ["first", *(f"bulk-{n}" for n in range(8))]


def test_of_many_runs_a_wrong_one_is_named(yard):
    order = Order(yard.deployment("prepare_dataset"), {"parameters": {"data": "/d"}})
    wrong = Order(order.deployment, {"parameters": {"data": "/d", "split": {"train_ratio": 2}}})
    with pytest.raises(ConfigError, match="run 2 of 2 was refused: .*train_ratio"):
        submit_many(yard.api, [order, wrong])
    other = Order(yard.deployment("classification"), {})
    with pytest.raises(ConfigError, match="found runs of several deployments, need those of one"):
        submit_many(yard.api, [order, other])


class Busy(BaseHTTPRequestHandler):
    """A server that says twice that its database is locked."""

    bodies: ClassVar[list[dict]] = []

    def do_POST(self):
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        busy = len(self.bodies) < 3
        self.send_response(503 if busy else 201)
        self.end_headers()
        self.wfile.write(b'{"detail": "database is locked"}' if busy else b'{"id": "x"}')

    def log_message(self, *args):
        pass


class Raising(httpx.Client):
    """As Prefect's client, which raises for every status that is no success."""

    def request(self, *args, **options):
        return super().request(*args, **options).raise_for_status()


def test_a_busy_server_is_asked_again_for_the_same_run():
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Raising(base_url=url) as client:
            assert submit(Api(client, url), Order("d", {"name": "n"})) == {"id": "x"}
        server.shutdown()
    assert len(Busy.bodies) == 3
    assert len({body["idempotency_key"] for body in Busy.bodies}) == 1
