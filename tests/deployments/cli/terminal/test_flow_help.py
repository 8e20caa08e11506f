"""`--help` and Tab know the flows and their parameters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.runs.flow_list import descriptions

YARD = Path(sys.executable).parent / "yard"
COMPLETE = """
source <("$1" --show-completion bash)
COMP_WORDS=(yard "${@:2}") COMP_CWORD=$(($# - 1))
_yard_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def yard(*words):
    environ = {**os.environ, "COLUMNS": "80"}
    return subprocess.run([YARD, *words], capture_output=True, text=True, check=False, env=environ)


def completed(*words):
    """Return what bash is offered for the last of the words of a command."""
    command = ["bash", "-c", COMPLETE, "bash", YARD, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "SHELL": "/bin/bash"})
    assert not done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("command", ["run", "submit"])
def test_help_lists_every_flow_with_a_line(command):
    lines = yard(command, "--help").stdout.splitlines()
    flows = lines.index("Flows:")
    assert any("--device" in line for line in lines[:flows])
    assert [line.split(maxsplit=1) for line in lines[flows + 1 : -2]] == [list(each) for each in descriptions().items()]
    assert lines[-1] == f"`yard {command} FLOW --help` shows the parameters of one."


@pytest.mark.parametrize("words", [("run", "spectrograms", "--help"), ("submit", "--help", "spectrograms", "data=x")])
def test_help_on_a_flow_tells_its_parameters(words):
    done = yard(*words)
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: yard {words[0]} spectrograms [OPTIONS]\n\nTurn raw radio recordings into ")
    for told in (
        "\n  data  path, needed\n      a recording of raw I/Q, or a folder of them",
        "\nspectrogram: how a recording is cut into frames",
        "\n  spectrogram.window  hamming | hann | blackman | boxcar, default hamming\n      Taper of each transform",
        "\n  spectrogram.overlap  float, >= 0, <= 0.95, default 0.5\n",
    ):
        assert told in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_on_a_flow_that_is_not_there_names_those_that_are():
    done = yard("run", "classify", "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: found no flow 'classify', have: add_part, augment_images, ")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("run", "cl"), ["classification"]),
        (("submit", "pre"), ["prepare_dataset", "prepare_scene", "predict", "predict_many"]),
        (("run", "classification", "--set", "train.num"), ["train.num_classes=", "train.num_epochs="]),
        (("run", "classification", "--device", "cpu", "--set", "dat"), ["data=", "data=null"]),
        (("submit", "classification", "train.opt"), [f"train.optimizer={w}" for w in ("", "adam", "adamw", "sgd")]),
        (("submit", "classification", "data", "=", "x", "train.pat"), ["train.patience=", "train.patience=0"]),
        (("submit", "classification", "train.optimizer", "=", "ad"), ["adam", "adamw"]),
        (("submit", "classification", "train.optimizer", "="), ["adam", "adamw", "sgd"]),
        (("submit", "classify", "da"), [""]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_is_offered_what_may_follow(words, offered):
    assert completed(*words) == offered
