"""The demo's data set: layout, names, reproducibility, and that nothing half-made is left."""

import re

import cv2
import numpy as np
import pytest

from tasks.signals.demo_data import GROUP_BY, make_demo_dataset
from tasks.signals.synthesis import KINDS

SMALL = {"n_recordings_per_class": 2, "frames_per_recording": 2, "snrs_db": (-5, 10), "size": 32}


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_class_gets_its_recordings_and_pictures(tmp_path):
    steps = list(make_demo_dataset(tmp_path / "demo", **SMALL))
    assert [s.done for s in steps] == list(range(1, 11))
    assert (steps[-1].total, steps[-1].n_images) == (10, 20)
    for kind in KINDS:
        recordings = sorted(p.name for p in (tmp_path / "demo/iq" / kind).iterdir())
        assert recordings == [f"{kind}_rec000_snr-05.iq", f"{kind}_rec001_snr+10.iq"]
        pictures = sorted((tmp_path / "demo/images" / kind).iterdir())
        assert [p.name for p in pictures][:2] == [f"{kind}_rec000_snr-05_f0{i}.jpg" for i in (0, 1)]
        assert cv2.imread(str(pictures[0])).shape == (32, 32, 3)


def test_the_pattern_groups_pictures_by_recording(tmp_path):
    list(make_demo_dataset(tmp_path / "demo", **SMALL))
    names = [p.name for p in (tmp_path / "demo/images").rglob("*.jpg")]
    groups = [re.match(GROUP_BY, name)[1] for name in names]
    assert len(set(groups)) == 10
    assert all(groups.count(g) == 2 for g in groups)


def test_the_same_seed_gives_the_same_files_whatever_the_number_of_workers(tmp_path):
    list(make_demo_dataset(tmp_path / "a", **SMALL, n_workers=1))
    list(make_demo_dataset(tmp_path / "b", **SMALL, n_workers=3))
    list(make_demo_dataset(tmp_path / "c", **SMALL, seed=1))
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_recordings_are_interleaved_float32_of_two_frames(tmp_path):
    list(make_demo_dataset(tmp_path / "demo", **SMALL))
    values = np.fromfile(tmp_path / "demo/iq/chirp/chirp_rec000_snr-05.iq", dtype="<f4")
    assert len(values) == 2 * 2 * 16000
    assert np.isfinite(values).all()


def test_stopping_half_way_leaves_nothing_behind(tmp_path):
    steps = make_demo_dataset(tmp_path / "demo", **SMALL)
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_no_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 frames"):
        list(make_demo_dataset(tmp_path / "demo", frames_per_recording=0))
