"""A training on the GPUs of two hosts at once: its result, its end when a part of it dies, and who waits for whom."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from deployments.services.service import free_port
from gpu_pools.hosts.offers import LABEL
from gpu_pools.process.run_process import command_line
from gpu_pools.slots.lease import holders
from tasks.splatting.capture.frame_table import IMAGES, MODEL
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tests.chaos.yard import FINAL, ROOT
from tests.hosts.lab import Lab, lab
from tests.samples import SMALL_TRAINING, write_bands
from tests.tasks.recognition.detector.conftest import PARTS, write_scenes
from tests.tasks.recognition.index.conftest import write_dataset
from tests.tasks.splatting.fit_scene import make_scene

pytestmark = [pytest.mark.yard, pytest.mark.timeout(1200)]

HELPER = "tasks.training.parallel.helper"
TRAINING = {**SMALL_TRAINING, "batch_size": 24, "device": "cuda", "optimizer": "sgd", "learning_rate": 1e-3}
"""One step an epoch: on two busy cores two processes wait for each other in every layer."""


SPLAT = {
    "preset": "quick",
    "max_steps": 60,
    "eval_every": 30,
    "cap_max": 400,
    "test_every": 4,
    "batch_size": 2,
    "device": "cuda",
    "num_threads": 1,
}
QUICK = {
    "batch_size": 8,
    "num_epochs": 2,
    "precision": "fp32",
    "device": "cuda",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "n_workers": 1,
    "register_model": False,
}
INDEX = {**QUICK, "image_size": 32}
DETECTOR = {**QUICK, "image_size": 64, "window": 0, "check_onnx": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("lab"), free_port()) as running:
        for part in ("train", "val", "test"):
            write_bands(running.home / "data" / part)
        running.deploy_classification()
        running.deploy("join_training", "flows.joining.join_training", "cuda.training")
        yield running


@pytest.fixture(autouse=True)
def _ends(made):
    """Cancel what a test has left, so that the next one finds all GPUs free."""
    yield
    for run_id in (run_id for run_id, state in made.states().items() if state["type"] not in FINAL):
        made.cancel(run_id)
    made.until(lambda: all(state["type"] in FINAL for state in made.states().values()), 120, "all are cancelled")


def train(made: Lab, num_epochs: int, n_hosts: int = 2, **values: Any) -> str:
    params = {**TRAINING, "num_epochs": num_epochs, "n_hosts": n_hosts, **values}
    return made.submit("train_classifier", "cuda.training", {"dataset": str(made.home / "data"), "train": params})


def rows(made: Lab, run: str) -> list[dict[str, str]]:
    with (made.home / "runs" / run / "training" / "history.csv").open() as file:
        return list(csv.DictReader(file))


def losses_of(made: Lab, run: str, step: str) -> list[float]:
    with (made.home / "runs" / run / step / "history.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def n_epochs(made: Lab, run: str) -> int:
    """Return how many epochs are in the journal of a training."""
    journal = made.home / "runs" / run / "training" / "journal.jsonl"
    if not journal.is_file():
        return 0
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return sum("loss/train" in json.dumps(line) for line in lines)


def found(made: Lab, run: str) -> dict[str, Any]:
    (row,) = made.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return dict(row)


def shares(made: Lab, run: str) -> list[dict[str, Any]]:
    """Return the runs by which other hosts take part in a run, the first one first."""
    wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(made.post("/flow_runs/filter", wanted))


def helpers(made: Lab, share: str) -> list[psutil.Process]:
    """Return the processes that compute a share."""
    own = set(made.marked(share))
    return [each for each in psutil.process_iter() if each.pid in own and HELPER in command_line(each)]


def held(made: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return the GPUs that are held, by host."""
    taken = {}
    for name, host in made.hosts.items():
        monkeypatch.setenv("TRAINYARD_LOCK_DIR", host.env["TRAINYARD_LOCK_DIR"])
        taken[name] = [holder.device for holder in holders()]
    return taken


def lasts(is_so: Callable[[], bool], seconds: float) -> bool:
    """Return whether something is so for a while: the labels of two hosts that write at once can get lost."""
    until = time.monotonic() + seconds
    while is_so() and time.monotonic() < until:
        time.sleep(0.2)
    return time.monotonic() >= until


def message(made: Lab, run: str) -> str:
    return str(made.state(run)["message"] or "")


def said(made: Lab, run: str) -> str:
    """Return all that the states of a run have said."""
    states = made.http.get("/flow_run_states/", params={"flow_run_id": run}).json()
    return "\n".join(state["message"] or "" for state in states)


def ended(made: Lab, run: str) -> Any:
    """Return a function that tells whether a run is done; one that has failed is no good."""

    def is_done() -> bool:
        state = made.state(run)
        assert state["type"] not in FINAL - {"COMPLETED"}, f"{state}\n{made.tails()}"
        return bool(state["type"] == "COMPLETED")

    return is_done


def command(made: Lab, *words: str) -> str:
    argv = [sys.executable, "-m", "deployments.cli.app", *words]
    done = subprocess.run(argv, env=made.env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def test_two_hosts_train_as_one_does(made, monkeypatch):
    values = {
        "model": "resnet18",
        "image_size": 64,
        "learning_rate": 1e-4,
        "batch_size": 8,
    }  # each process draws its own dropout
    run = train(made, 3, **values)
    made.until(ended(made, run), 300, "it is done")
    (share,) = shares(made, run)
    assert share["state"]["type"] == "COMPLETED", share["state"]
    labels = found(made, run)["labels"]
    assert (labels["trainyard.host"], share["labels"]["trainyard.host"]) == ("boxa", "boxb")
    device, its = labels["trainyard.device"], share["labels"]["trainyard.device"]
    assert f"boxa/{device},boxb/{its}" in command(made, "show", run)
    made.until(lambda: not any(held(made, monkeypatch).values()), 30, "both GPUs are free")
    on_one = train(made, 3, n_hosts=1, n_devices=2, **values)
    alone = train(made, 3, n_hosts=1, **values)
    for other in (on_one, alone):
        made.until(ended(made, other), 300, "so are the others")
    losses = [losses_of(made, one, "training") for one in (run, on_one, alone)]
    print(losses)
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)  # two processes on one host
    assert losses[0] == pytest.approx(losses[2], rel=0.03)  # sums of float32 in another order


def on_two(
    made: Lab, flow: str, section: str, values: dict[str, Any], several: dict[str, int], **parameters: Any
) -> str:
    """Let a training end on two hosts, or on two devices; return its run."""
    given = {**parameters, section: {**values, **several}, "finish": False}
    run = made.submit(flow, "cuda.training", given)
    made.until(ended(made, run), 400, "it is done")
    return run


def see_two_hosts_train_as_two_devices(
    made: Lab, flow: str, section: str, values: dict[str, Any], dataset: Path
) -> None:
    """Train on two hosts, and on two devices of one, and compare the losses of the two epochs."""
    made.deploy(flow, f"flows.recognition.{flow}", "cuda.training")
    losses = []
    for several in ({"n_hosts": 2}, {"n_devices": 2}):
        run = on_two(made, flow, section, values, several, dataset=str(dataset))
        losses.append(losses_of(made, run, section))
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_detector_trains_on_two_hosts_as_on_two_devices_of_one(made):
    data = made.home / "scenes-of-parts"
    for seed, (subset, n) in enumerate({"train": 16, "val": 4, "test": 4}.items()):
        write_scenes(data / "scenes" / subset, n, seed)
    (data / "parts.json").write_text(json.dumps({"parts": [{"name": name} for name in PARTS], "distractors": []}))
    see_two_hosts_train_as_two_devices(made, "train_detector", "detector", DETECTOR, data)


def test_an_index_trains_on_two_hosts_as_on_two_devices_of_one(made):
    data = write_dataset(made.home / "views-of-parts")
    see_two_hosts_train_as_two_devices(made, "train_index", "index", INDEX, data)


@pytest.fixture(scope="module")
def scene(made):
    """The folder of a scene, as the preparation leaves it; splats can be trained."""
    folder = made.home / "scene"
    described = make_scene(folder / IMAGES)
    cameras = tuple(view.camera for view in described.views)
    write_model(folder / MODEL, PinholeModel(cameras, described.points, described.colors))
    made.deploy("train_splat", "flows.splatting.train_splat", "cuda.training")
    return folder


def test_a_splat_of_two_hosts_has_the_bits_of_one_of_two_devices(made, scene):
    splats = []
    for several in ({"n_hosts": 2}, {"n_devices": 2}, {}):
        run = on_two(made, "train_splat", "train", SPLAT, several, scene=str(scene))
        splats.append(torch.load(made.home / "runs" / run / "training" / "gaussians.pt", weights_only=True)["splats"])
        if several == {"n_hosts": 2}:
            assert "boxa/cuda:0,boxb/cuda:" in command(made, "show", run)
    for other in splats[1:]:
        torch.testing.assert_close(splats[0], other, rtol=0, atol=0)


def test_a_process_that_is_killed_on_the_far_host_ends_all_and_the_run_goes_on(made):
    run = train(made, 12, n_devices=2, checkpoint_every_s=0.1)
    made.until(lambda: n_epochs(made, run) >= 2, 300, "it trains")
    (share,) = shares(made, run)
    assert len(helpers(made, share["id"])) == 2
    helpers(made, share["id"])[1].kill()
    made.until(lambda: len(shares(made, run)) == 2, 120, "it starts again")
    made.until(ended(made, run), 300, "it is done")
    assert "attempt 2 of 4: process 4 of 4 (boxb/cuda:1) was ended by SIGKILL" in said(made, run)
    assert [row["epoch"] for row in rows(made, run)] == [str(epoch) for epoch in range(1, 13)]
    assert [one["state"]["type"] for one in shares(made, run)] == ["CANCELLED", "COMPLETED"]


def test_a_share_whose_own_process_is_killed_ends_all_and_the_run_goes_on(made):
    run = train(made, 12, checkpoint_every_s=0.1)
    made.until(lambda: n_epochs(made, run) >= 2, 300, "it trains")
    (share,) = shares(made, run)
    for process in map(psutil.Process, made.marked(share["id"])):
        process.kill()
    made.until(ended(made, run), 300, "it is done")
    made.until(lambda: {one["state"]["type"] for one in shares(made, run)} <= FINAL, 60, "so are its shares")


def test_a_cancel_frees_both_hosts(made, monkeypatch):
    run = train(made, 10000)
    made.until(lambda: n_epochs(made, run) >= 1, 300, "it trains")
    assert {host: len(gpus) for host, gpus in held(made, monkeypatch).items()} == {"boxa": 1, "boxb": 1}
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 60, "it is cancelled")
    made.until(lambda: not any(held(made, monkeypatch).values()), 30, "both GPUs are free")
    made.until(lambda: {one["state"]["type"] for one in shares(made, run)} == {"CANCELLED"}, 60, "so is its share")


def test_two_that_need_all_gpus_of_both_hosts_run_one_after_the_other_and_singles_fill_the_gap(made):
    single = made.hold("boxb.cuda:0.training", 25)
    made.until(made.begun(single), 60, "one GPU is taken")
    pair = [train(made, 2, n_devices=2) for _ in range(2)]
    made.until(lambda: "gathers 2 hosts with 2 GPUs each: boxa: " in message(made, pair[0]), 60, "the first gathers")
    made.until(lambda: "gathers before it" in message(made, pair[1]), 60, "the second says who is before it")
    made.until(lambda: "boxb: cuda:1 is" in said(made, pair[0]), 30, "the first one has said what boxb has")
    for run in pair:
        made.until(ended(made, run), 400, "both are done")
    begun = [found(made, run) for run in pair]
    assert begun[0]["end_time"] <= begun[1]["start_time"]


def test_a_pipeline_that_a_person_submits_trains_on_both_hosts(made):
    write_bands(made.home / "raw")
    values = {**TRAINING, "num_epochs": 2, "n_hosts": 2}
    words = [f"data={made.home}/raw", "augment.enabled=false", *(f"train.{name}={it}" for name, it in values.items())]
    told = command(made, "submit", "classification", *words, "--json")
    pipeline = json.loads(told[told.index("{") :])["id"]
    made.until(ended(made, pipeline), 300, "it is done")
    assert "boxa/cuda:0,boxb/cuda:" in command(made, "show", pipeline)


def test_more_hosts_than_there_are_are_refused(made):
    run = train(made, 1, n_hosts=3)
    made.until(made.is_(run, "FAILED"), 60, "it fails")
    assert message(made, run) == ("found GPUs: 2 on boxa, 2 on boxb; need 3 hosts with 1 GPU each for n_hosts 3")
    words = ("submit", "train_classifier", f"dataset={made.home}/data", "train.n_hosts=3", "train.pretrained=false")
    assert "need 3 hosts with 1 GPU each for n_hosts 3" in command(made, *words)


def test_a_host_that_does_not_come_is_not_waited_for_for_ever(made, monkeypatch):
    single = made.hold("boxa.cuda:0.training", 40), made.hold("boxa.cuda:1.training", 40)
    for run in single:
        made.until(made.begun(run), 60, "the first host is busy")
    run = train(made, 2)
    made.until(lambda: "boxb: cuda:0 is kept for it" in message(made, run), 60, "the second one is ready")
    offer = f"{LABEL}boxb"
    made.until(lambda: lasts(lambda: bool(found(made, run)["labels"].get(offer)), 5), 30, "its offer stands")
    made.signal_worker("boxb", signal.SIGSTOP)
    made.until(made.is_(run, "RUNNING"), 60, "the first one leads")
    made.until(lambda: "boxb did not come within 120 s" in said(made, run), 200, "and waits again")
    made.until(lambda: not any(held(made, monkeypatch).values()), 30, "its GPU is free")
    made.signal_worker("boxb", signal.SIGCONT)
    made.until(ended(made, run), 300, "it is done")
    assert [one["state"]["type"] for one in shares(made, run)] == ["CANCELLED", "COMPLETED"]
    assert "attempt 2" not in said(made, run)


def test_a_far_worker_that_stops_its_runs_lets_the_training_save_its_state(made):
    run = train(made, 30)  # a checkpoint every five minutes, else
    made.until(lambda: n_epochs(made, run) >= 2, 300, "it trains")
    made.signal_worker("boxb", signal.SIGUSR1)
    made.until(lambda: "the worker of boxb stops: waits for its hosts again" in said(made, run), 120, "it waits again")
    made.until(lambda: {one["state"]["type"] for one in shares(made, run)} == {"CANCELLED"}, 60, "its share has ended")
    done, log = n_epochs(made, run), made.home / "worker-boxb.log"
    made.until(lambda: "has stopped" in log.read_text(), 60, "the worker is gone")
    made.start_worker_again("boxb")
    made.until(ended(made, run), 300, "it is done")
    assert "attempt 2" not in said(made, run)
    assert n_epochs(made, run) == 30 >= done  # none twice


def test_a_splat_of_which_a_host_leaves_goes_on_after_its_last_step(made, scene):
    values = {**SPLAT, "max_steps": 800, "n_hosts": 2}
    run = made.submit("train_splat", "cuda.training", {"scene": str(scene), "train": values, "finish": False})
    log = made.home / "runs" / run / "output.log"
    made.until(lambda: log.is_file() and "fits in 2 processes" in log.read_text(), 120, "it trains")
    made.signal_worker("boxb", signal.SIGUSR1)
    made.until(lambda: "the worker of boxb stops: waits for its hosts again" in said(made, run), 120, "it waits again")
    made.until(lambda: "has stopped" in (made.home / "worker-boxb.log").read_text(), 60, "the worker is gone")
    made.start_worker_again("boxb")
    made.until(ended(made, run), 300, "it is done")
    assert "attempt 2" not in said(made, run)
    assert "goes on after step" in log.read_text()


def test_a_far_host_that_dies_frees_this_one_and_the_run_goes_on_when_it_is_back(made, monkeypatch):
    run = train(made, 30, checkpoint_every_s=0.1)
    made.until(lambda: n_epochs(made, run) >= 2, 300, "it trains")
    made.kill(made.workers["boxb"])
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", made.hosts["boxa"].env["TRAINYARD_LOCK_DIR"])
    took = made.until(lambda: not holders(), 60, "the other host is free")
    print(f"free after {took:.0f} s")
    made.until(lambda: "waits for a worker on boxb" in message(made, run), 240, "it says for whom it waits")
    made.start_host("boxb")
    made.until(ended(made, run), 300, "it is done")
    made.until(lambda: {one["state"]["type"] for one in shares(made, run)} <= FINAL, 120, "so are its shares")


def test_a_host_that_is_cut_off_computes_no_more_and_the_other_one_is_free(made, monkeypatch):
    run = train(made, 10000)
    made.until(lambda: n_epochs(made, run) >= 1, 300, "it trains")
    (share,) = shares(made, run)
    made.hosts["boxb"].plug(cable=False)
    took = made.until(lambda: not held(made, monkeypatch)["boxa"], 90, "the other host is free")
    print(f"free after {took:.0f} s")
    made.until(lambda: not helpers(made, share["id"]), 60, "nothing computes on the host that is cut off")
    made.hosts["boxb"].plug(cable=True)
    made.until(lambda: made.state(run)["type"] == "RUNNING" and len(shares(made, run)) == 2, 240, "it goes on")
