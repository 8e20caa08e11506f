"""A training of an embedding whose process is killed goes on in another one, and ends with the same weights."""

import subprocess
import sys

import pytest
import torch

from tasks.recognition.index.training.session import IndexSession

CHILD = """
import os, signal, sys, time
from pathlib import Path
import torch
from tasks.recognition.index.training.session import IndexSession
from tasks.recognition.params import IndexParams
from tasks.training.events import BatchDone
dataset, folder, cache, params, left = *map(Path, sys.argv[1:4]), sys.argv[4], int(sys.argv[5])
torch.rand(left)
clock = lambda: time.time_ns() // 1_000_000
params = IndexParams.model_validate_json(params)
for event in IndexSession(dataset, folder, params, torch.device("cpu"), cache=cache, clock_ms=clock).run():
    left -= isinstance(event, BatchDone)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kills", [pytest.param([2], marks=pytest.mark.long), [5]])
def test_a_killed_training_goes_on_from_its_last_checkpoint(dataset, params, tmp_path, kills):
    params = params.model_copy(update={"num_epochs": 3, "checkpoint_every_s": 1e-3, "precision": "fp32"})
    cache, whole, cut = (tmp_path / name for name in ("cache", "whole", "cut"))
    list(IndexSession(dataset, whole, params, torch.device("cpu"), cache=cache, clock_ms=lambda: 0).run())

    for kill in kills:
        command = [sys.executable, "-c", CHILD, dataset, cut, cache, params.model_dump_json(), str(kill)]
        assert subprocess.run(command, check=False).returncode == -9
        assert not (cut / "finished.json").exists()
    session = IndexSession(dataset, cut, params, torch.device("cpu"), cache=cache, clock_ms=lambda: 0)
    notes = [event.text for event in session.run() if hasattr(event, "text")]

    assert any("goes on at epoch" in text for text in notes)
    ours, theirs = (torch.load(folder / "best.pt", weights_only=True) for folder in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
