"""The fingerprint tells trainings of different results apart, and only those; a checkpoint comes back whole."""

import itertools

import pytest
import torch

from tasks.base.errors import ConfigError, StorageError
from tasks.classification import params as classification
from tasks.run.checkpoint import Checkpoint, fingerprint_of, load_tensors
from tasks.splatting import params as splatting
from tasks.splatting.params import SplatParams


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "splat.ckpt", lambda: 0.0)


def fit_of(data="digest", **values):
    return fingerprint_of(SplatParams(**values), splatting.FREE_TO_CHANGE, data)


@pytest.mark.parametrize(
    ("params", "free"),
    [
        (classification.TrainParams(), classification.FREE_TO_CHANGE),
        (SplatParams(), splatting.FREE_TO_CHANGE),
    ],
)
def test_every_parameter_but_the_free_ones_is_in_the_fingerprint(params, free):
    names = set(type(params).model_fields)
    assert free < names
    assert set(fingerprint_of(params, free, "digest")) == {"data", *names} - free


def test_a_checkpoint_comes_back_as_it_was(checkpoint):
    checkpoint.save({"x": torch.arange(3)}, fit_of())
    assert torch.equal(checkpoint.load(fit_of(device="cpu"))["x"], torch.arange(3))


def test_all_that_differs_is_named(checkpoint):
    checkpoint.save({}, fit_of("a"))
    with pytest.raises(ConfigError, match="cap_max null -> 200; data a -> b"):
        checkpoint.load(fit_of("b", cap_max=200))


def test_a_damaged_file_is_named_with_its_first_fault(checkpoint):
    checkpoint.path.write_bytes(b"no checkpoint")
    with pytest.raises(StorageError, match=r"splat\.ckpt cannot be read \(UnpicklingError: .*remove it to start anew"):
        checkpoint.load(fit_of())


def test_files_that_the_state_names_are_written_first_and_count(tmp_path):
    now = itertools.count()
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", lambda: next(now))
    assert (checkpoint.age_s, checkpoint.cost_s) == (1, 0)
    checkpoint.save({}, fit_of(), before={tmp_path / "best.pt": {"w": torch.ones(2)}})
    assert torch.equal(load_tensors(tmp_path / "best.pt")["w"], torch.ones(2))
    assert (tmp_path / "best.pt").stat().st_mtime_ns <= checkpoint.path.stat().st_mtime_ns
    assert (checkpoint.cost_s, checkpoint.age_s) == (1, 1)
