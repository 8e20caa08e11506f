"""A process that fails in the middle of a training is told by name; one that begins late is waited for."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from gpu_pools.process.run_setup import ON
from tasks.base.errors import ConfigError
from tasks.training.parallel.helpers import Helpers
from tests.runners import ROOT
from tests.tasks.training.parallel.adding import add_up, adding

CPU = torch.device("cpu")


def lead(text: str) -> None:
    """Be the first of two processes, in one of its own: it is killed where the other one dies of a signal."""
    added = False
    try:
        with Helpers(adding(text), 2, CPU) as them:
            add_up(them.join("bf16"))
            added = True
            dist.all_reduce(torch.ones(1))  # the other one has failed by now
    finally:
        assert added
        assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("fails_with", "said"),
    [("out of luck", "out of luck"), ("", "AssertionError('nothing to say')")],
    ids=["ours", "any other"],
)
def test_a_process_that_fails_between_two_steps_is_named_with_its_reason(monkeypatch, fails_with, said):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(ON, "cuda:0,cuda:2")
    command = [sys.executable, "-c", f"from {__name__} import lead; lead({fails_with!r})"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1].endswith(f"TrainingError: process 2 of 2 (cuda:2) failed: {said}")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="found 1 GPUs, need 2 for n_devices 2"):
        Helpers(adding(""), 2, torch.device("cuda"))
