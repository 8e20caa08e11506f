"""The estimate of a preparation is that of its files: links take nothing, copies about what they will."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.classification.data.augment import augment_dataset
from tasks.classification.data.disk_need import preparation_need
from tasks.classification.data.split import split_dataset
from tasks.classification.params import AugmentParams, SplitParams
from tasks.housekeeping.removal import disk_usage

SHM = Path("/dev/shm")


@pytest.fixture
def images(tmp_path):
    """Two classes of 12 images of 320x240 with soft structure, as a camera takes them."""
    for number in range(24):
        rng = np.random.default_rng(number)
        soft = cv2.resize(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
        path = tmp_path / "images" / ("calm", "loud")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), soft)
    return tmp_path / "images"


def test_a_split_takes_nothing(images, tmp_path):
    need = preparation_need(images, SplitParams(), AugmentParams(enabled=False), tmp_path / "out")
    assert (need.bytes, need.what) == (0, "")


def test_the_copies_take_about_what_was_said(images, tmp_path):
    split, augment = SplitParams(), AugmentParams(n_workers=1)
    need = preparation_need(images, split, augment, tmp_path / "out" / "new")
    for name in ("split", "augmented"):
        (tmp_path / "out" / name).mkdir(parents=True)
    before = disk_usage(tmp_path)
    split_dataset(images, tmp_path / "out" / "split", split)
    report = augment_dataset(tmp_path / "out" / "split", tmp_path / "out" / "augmented", augment)
    assert int(need.what.split()[0]) == pytest.approx(report.augmented_images, rel=0.1)
    taken = disk_usage(tmp_path) - before
    assert 0.5 < need.bytes / taken < 2


@pytest.mark.skipif(not SHM.is_dir(), reason="no other file system here")
def test_what_comes_from_another_disk_is_copied(images):
    need = preparation_need(images, SplitParams(), AugmentParams(enabled=False), SHM / "trainyard-none")
    assert need.bytes == sum(path.stat().st_size for path in images.rglob("*.png"))
    assert need.what == "copies from another disk"


@pytest.mark.parametrize(("parts", "n_copies"), [(("train",), 102), (("train", "val"), 132)])
def test_the_parts_that_get_copies_count(images, tmp_path, parts, n_copies):
    need = preparation_need(images, SplitParams(), AugmentParams(parts=parts), tmp_path)
    assert need.what == f"{n_copies} altered copies"
