"""Runs for Slurm and Kubernetes come to where these find them, with what their jobs ask for, or not at all."""

import os
import subprocess
import sys

import pytest

from gpu_pools.slurm.dispatch import QUEUES
from tasks.base.errors import ConfigError
from tests.deployments.runs.test_submit import count, submitted
from tests.runners import ROOT

SMALL = ["--job", "cpus=2", "--job", "memory=4G"]


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The current folder, with a folder of images in it."""
    (tmp_path / "work" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work" / "images"


@pytest.fixture
def slurm(yard):
    """The queues that the service makes."""
    for queue in QUEUES:
        yard.api.call("POST", "/work_pools/gpu/queues", {"name": queue.name})
    yield
    for queue in QUEUES:
        yard.api.call("DELETE", f"/work_pools/gpu/queues/{queue.name}")


@pytest.fixture
def pods(yard):
    """The pool and the deployments for Kubernetes."""
    command = [sys.executable, "-m", "deployments.kubernetes", "--image", "lab/yard:1"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield done.stdout
    made = yard.api.call("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["kubernetes"]}}})
    for deployment in made:
        yard.api.call("DELETE", f"/deployments/{deployment['id']}")
    yard.api.call("DELETE", "/work_pools/kubernetes")


@pytest.mark.parametrize(
    ("flow", "words", "queue"),
    [
        ("train_classifier", [], "slurm.cuda.training"),
        ("train_classifier", ["--device", "cpu"], "slurm.cpu.training"),
        ("train_classifier", ["train.device=cpu"], "slurm.cpu.training"),
        ("prepare_dataset", [], "slurm.cpu.preparation"),
        ("report_classifier", ["run=r"], "slurm.cpu.inference"),
        ("classification", [], "cpu.pipeline"),
    ],
)
def test_a_run_on_slurm_waits_in_its_queue(yard, images, slurm, flow, words, queue):
    data = "data=images" if flow in ("prepare_dataset", "classification") else "dataset=images"
    run = submitted(yard, flow, data, "--on", "slurm", *SMALL, *words)
    assert run["work_queue_name"] == queue
    assert {"on": "slurm", "cpus": 2, "memory": "4G"}.items() <= run["job_variables"].items()


def test_slurm_as_a_device_takes_what_needs_a_gpu(yard, images, slurm):
    run = submitted(yard, "classification", "data=images", "--device", "slurm/cuda")
    assert run["parameters"]["train"]["device"] == "slurm/cuda"
    assert "on" not in run["job_variables"]
    stage = submitted(yard, "train_classifier", "dataset=images", "--device", "slurm/cuda")
    assert stage["work_queue_name"] == "slurm.cuda.training"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--on", "slurm"], "found no Slurm for training at "),
        (["--on", "kubernetes"], "found no deployment train_classifier/kubernetes at "),
        (["--on", "slurm", "--device", "cuda:1"], "found device 'cuda:1' with --on slurm, need cuda or cpu"),
        (["--on", "slurm", "--job", "cpus"], "found --job cpus, need NAME=VALUE"),
        (["--job", "colour=red"], "found --job colour=..., need one of: cpus, memory, "),
    ],
)
@pytest.mark.parametrize("flow", ["train_classifier", "classification"])
def test_what_is_wrong_is_said_before_anything_is_created(yard, images, flow, words, fault):
    before = count(yard)
    with pytest.raises(ConfigError) as caught:
        submitted(yard, flow, "dataset=images" if flow == "train_classifier" else "data=images", *words)
    assert str(caught.value).startswith(fault)
    assert count(yard) == before


@pytest.mark.parametrize(
    ("job", "fault"), [("cpus=0", "cpus: found '0'"), ("memory=much", "memory: "), ("qos=--x", "qos: ")]
)
def test_a_wish_out_of_bounds_is_refused_with_its_name(yard, images, slurm, job, fault):
    with pytest.raises(ConfigError, match=fault):
        submitted(yard, "train_classifier", "dataset=images", "--on", "slurm", "--job", job)


def test_a_run_on_kubernetes_is_one_of_its_pool(yard, images, pods):
    assert "train_classifier" in pods
    words = ["--on", "kubernetes", "--time-limit", "1h", *SMALL]
    run = submitted(yard, "train_classifier", "dataset=images", *words)
    assert run["work_pool_name"] == "kubernetes"
    wanted = {"gpus": 1, "cpus": 2, "memory": "4G", "seconds": 3900}
    assert wanted.items() <= run["job_variables"].items()
    stage = submitted(yard, "prepare_dataset", "data=images", "--on", "kubernetes")
    assert stage["job_variables"]["gpus"] == 0
    pipeline = submitted(yard, "classification", "data=images", "--on", "kubernetes")
    assert (pipeline["work_pool_name"], pipeline["job_variables"]["on"]) == ("gpu", "kubernetes")
    pool = yard.api.call("GET", "/work_pools/kubernetes")
    assert pool["base_job_template"]["variables"]["properties"]["image"]["default"] == "lab/yard:1"


def test_the_pool_is_made_again_without_harm(yard, pods):
    command = [sys.executable, "-m", "deployments.kubernetes"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.stdout == pods
