"""The fingerprint tells fits of different results apart, and only those; a killed writing leaves nothing."""

import pytest
import torch

from tasks.base.errors import ConfigError
from tasks.splatting.fit.fit_checkpoint import fingerprint, read_checkpoint, save_tensors, sweep
from tasks.splatting.params import SplatParams


def test_every_parameter_but_the_free_ones_is_in_the_fingerprint():
    found = fingerprint(SplatParams(), "digest")
    assert set(found) == {"data", *SplatParams.model_fields} - {"device", "num_threads", "min_psnr"}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    mark = fingerprint(SplatParams(), "digest")
    save_tensors(tmp_path / "splat.ckpt", {"fingerprint": mark, "x": torch.arange(3)})
    saved = read_checkpoint(tmp_path / "splat.ckpt", mark)
    assert saved is not None
    assert torch.equal(saved["x"], torch.arange(3))


def test_without_a_checkpoint_there_is_nothing(tmp_path):
    assert read_checkpoint(tmp_path / "splat.ckpt", {}) is None


def test_all_that_differs_is_named(tmp_path):
    save_tensors(tmp_path / "c", {"fingerprint": fingerprint(SplatParams(), "a")})
    with pytest.raises(ConfigError, match="cap_max null -> 200; data a -> b"):
        read_checkpoint(tmp_path / "c", fingerprint(SplatParams(cap_max=200), "b"))


def test_what_a_kill_left_is_swept_away_and_nothing_else(tmp_path):
    left = [".splat.ckpt.ab12", ".gaussians.pt.x", ".metrics.csv._1", ".finished.json.q"]
    kept = ["splat.ckpt", "gaussians.pt", ".hidden.of.somebody", "notes.txt"]
    for name in left + kept:
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
