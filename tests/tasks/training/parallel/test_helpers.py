"""A process that fails in the middle of a training is told by name; one that begins late is waited for."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gpu_pools.process.run_setup import ON
from tasks.base.errors import ConfigError, TrainingError
from tasks.classification.params import TrainParams
from tasks.training.parallel.helpers import Helpers

ROOT = Path(__file__).parents[4]
CPU = torch.device("cpu")


class Failing:
    """A session whose second process fails after its first exchange."""

    def __init__(self, dataset: Path, *_: object, **__: object) -> None:
        self._text = dataset.name

    def find_data(self) -> None:
        pass

    def help(self, precision: str, connect) -> None:
        ranks = connect()
        assert (ranks.rank, ranks.size, precision) == (1, 2, "bf16")
        dist.all_reduce(torch.ones(1))
        if not self._text:
            raise AssertionError("nothing to say")
        raise TrainingError(self._text)


def task(text: str) -> dict[str, object]:
    params = {"session": f"{__name__}:Failing", "params_type": "tasks.classification.params:TrainParams"}
    return {**params, "params": TrainParams().model_dump(mode="json"), "dataset": text, "folder": ".", "cache": "."}


def lead(text: str) -> None:
    """Be the first of two processes, in one of its own: it is killed where the other one dies of a signal."""
    total = torch.ones(1)
    try:
        with Helpers(task(text), 2, CPU) as them:
            ranks = them.join("bf16")
            assert (ranks.rank, ranks.size) == (0, 2)
            dist.all_reduce(total)
            dist.all_reduce(total)  # the other one has failed by now
    finally:
        assert total.item() == 2
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
        Helpers(task(""), 2, torch.device("cuda"))
