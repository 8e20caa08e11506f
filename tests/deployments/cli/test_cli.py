"""What a person sees in the terminal: one clear line for an error, an exit code, and no traceback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from deployments.runs.flow_list import entrypoints

YARD = Path(sys.executable).parent / "yard"
TINY = ("train.model=mobilenet_v3_small", "train.image_size=32", "train.num_epochs=1", "train.precision=fp32")
REPLACED = {"PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"} | {
    f"TRAINYARD_{name}" for name in ("ALLOWED_ROOTS", "SIMULATE_GPUS")
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environ(home):
    kept = {name: value for name, value in os.environ.items() if name not in REPLACED}
    return {**kept, "TRAINYARD_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "bands"
    for name in ("calm", "loud"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3))
            cv2.imwrite(str(root / name / f"{i}.png"), pixels.astype(np.uint8))
    return root


def yard(environ, *words, sets=()):
    command = [str(YARD), *map(str, words), *(word for value in sets for word in ("--set", value))]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=200)


def error_of(done):
    """Return the error shown, which is the last of stderr, and the only word of it."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr.partition("error: ")[2].rstrip("\n")


# Before anything starts.


def test_the_help_names_every_command(environ):
    done = yard(environ, "--help")
    assert done.returncode == 0
    for command in ("run", "resume", "demo", "up"):
        assert f" {command} " in done.stdout


def test_the_version_is_that_of_the_project(environ):
    assert yard(environ, "--version").stdout == "yard 0.1.0\n"


def test_an_unknown_flow_is_refused_with_those_there_are(environ):
    error = error_of(yard(environ, "run", "classify"))
    assert error == f"found no flow 'classify', have: {', '.join(sorted(entrypoints()))}"


def test_an_unknown_model_is_refused_with_those_there_are(environ, pictures, home):
    before = sorted(home.glob("runs/*"))
    error = error_of(yard(environ, "run", "classification", "--data", pictures, sets=["train.model=resnet19"]))
    assert error.startswith("train.model: found 'resnet19': Input should be 'resnet18', 'resnet34', ")
    assert sorted(home.glob("runs/*")) == before


def test_a_device_this_machine_does_not_have_is_refused_before_anything_starts(environ, pictures, home):
    before = sorted(home.glob("runs/*"))
    error = error_of(yard(environ, "run", "classification", "--data", pictures, "--device", "cuda"))
    assert error == "found no GPU for device 'cuda' (CUDA_VISIBLE_DEVICES=); have: cpu"
    assert sorted(home.glob("runs/*")) == before


def test_a_missing_file_of_parameters_is_named(environ):
    assert error_of(yard(environ, "run", "classification", "-f", "none.yaml")) == (
        "cannot be read, No such file or directory: none.yaml"
    )


def test_an_override_without_a_value_is_refused(environ):
    error = error_of(yard(environ, "run", "classification", sets=["train.num_epochs"]))
    assert error == "found 'train.num_epochs', need NAME=VALUE such as train.num_epochs=3"


def test_a_home_that_is_a_file_is_named(environ, pictures, tmp_path):
    (tmp_path / "home").write_text("a file")
    environ = {**environ, "TRAINYARD_HOME": str(tmp_path / "home")}
    error = error_of(yard(environ, "run", "classification", "--data", pictures, "--device", "cpu"))
    assert error.startswith(f"found a file where a folder is needed: {tmp_path}/home")


def test_what_is_no_id_of_a_run_is_refused(environ, tmp_path):
    # A home of its own: a run that was refused may have begun to start a server, which leaves its database.
    error = error_of(yard({**environ, "TRAINYARD_HOME": str(tmp_path)}, "resume", "newest"))
    assert error.startswith("no server: ")
    assert "and no run has left records in" in error


def test_data_that_is_not_there_is_named(environ, tmp_path):
    error = error_of(yard(environ, "run", "prepare_dataset", "--data", tmp_path / "data"))
    assert error == f"found nothing at {tmp_path}/data, need the data there"


# Once the run has started, on a server of its own.


def test_a_wrong_number_of_classes_is_refused_with_those_found(environ, pictures):
    sets = [*TINY, "train.pretrained=false", "train.num_classes=3", "augment.enabled=false", "split.train_ratio=0.5"]
    done = yard(environ, "run", "classification", "--data", pictures, "--device", "cpu", sets=sets)
    ended = time.time()
    error = error_of(done)
    assert error.startswith("num_classes is 3, but ")
    assert error.endswith(" has 2 classes: calm, loud")
    lines = done.stderr.splitlines()
    started = next(line for line in lines if line.startswith("run "))
    assert len(lines) == len(set(lines)) < 10
    # Not held up by log lines that wait for a server that has ended: that took a minute.
    folder = Path(started.rpartition(" in ")[2])
    assert ended - max(path.stat().st_mtime for path in folder.rglob("*")) < 30


def test_without_a_network_the_file_to_provide_is_named(environ, pictures, tmp_path):
    # A proxy that nobody listens on: the same as no network, also where there is one.
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    offline = {**dict.fromkeys(names, "http://127.0.0.1:9"), "TORCH_HOME": str(tmp_path)}
    done = yard({**environ, **offline}, "run", "classification", "--data", pictures, "--device", "cpu", sets=TINY)
    error = error_of(done)
    assert error.startswith("pretrained weights of mobilenet_v3_small are not here and could not be fetched")
    assert f"put mobilenet_v3_small-047dcff4.pth into {tmp_path}/hub/checkpoints, or set pretrained=false" in error
    assert "websocket" not in done.stderr  # the proxy is not asked for what is on this machine
