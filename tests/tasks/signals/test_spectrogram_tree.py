"""A tree of recordings becomes the same tree of images, and what cannot be used is told before any work."""

import csv
import json
import os
import struct

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.base.progress import finish
from tasks.classification.data.split import split_dataset
from tasks.classification.params import SplitParams
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram_tree import making_spectrograms

UNSAID = {"utc": "", "center_hz": ""}
SMALL = SpectrogramParams(sample_rate_hz=1e6, frame_s=4e-3, n_fft=128, width=64, height=32)


def store(path, n=8000, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(seed).standard_normal(2 * n).astype("<f4").tobytes())
    return path


def pictures(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def test_a_tree_keeps_its_structure(tmp_path, target):
    store(tmp_path / "iq/dji/a.iq")
    store(tmp_path / "iq/fpv/far/b.dat", n=4000)
    report = finish(making_spectrograms(tmp_path / "iq", target, SMALL))
    assert pictures(target) == ["dji/a_f00.jpg", "dji/a_f01.jpg", "fpv/far/b_f00.jpg"]
    assert cv2.imread(str(target / "dji/a_f00.jpg")).shape == (32, 64, 3)
    assert (report.n_recordings, report.n_images, report.folders) == (2, 3, {"dji": 2, "fpv/far": 1})
    assert json.loads((target / "report.json").read_text())["datatypes"] == {"cf32_le": 2}


def test_what_a_recording_says_of_itself_is_in_the_list_of_frames(tmp_path, target):
    (tmp_path / "iq/a").mkdir(parents=True)
    np.save(tmp_path / "iq/a/n.npy", np.ones(4000, np.complex64))
    auxi = struct.pack("<8H", 2026, 7, 5, 31, 16, 50, 31, 570) + bytes(16) + struct.pack("<I", 98_500_000)
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, 500_000, 2_000_000, 4, 16)
    chunks += b"auxi" + struct.pack("<I", len(auxi)) + auxi + b"data" + struct.pack("<I", 16000) + bytes(16000)
    (tmp_path / "iq/a/w.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    report = finish(making_spectrograms(tmp_path / "iq", target, SMALL))
    assert (report.datatypes, report.sample_rates_hz) == ({"npy_complex64": 1, "wav_i16": 1}, [500_000, 1_000_000])
    with (target / "frames.csv").open() as file:
        said = [(row["path"], row["utc"], row["center_hz"]) for row in csv.DictReader(file)]
    assert said == [
        ("a/n_f00.jpg", "", ""),
        ("a/w_f00.jpg", "2026-07-31T16:50:31.570000+00:00", "98500000"),
        ("a/w_f01.jpg", "2026-07-31T16:50:31.574000+00:00", "98500000"),
    ]


def test_one_recording_gives_its_pictures_at_the_top(tmp_path, target):
    finish(making_spectrograms(store(tmp_path / "a.iq"), target, SMALL))
    assert pictures(target) == ["a_f00.jpg", "a_f01.jpg"]


def test_a_name_that_is_no_utf_8_comes_back_from_the_list_of_frames(tmp_path, target):
    name = os.fsdecode(b"\xff\xfe.iq")
    store(tmp_path / "iq" / name)
    finish(making_spectrograms(tmp_path / "iq", target, SMALL))
    assert name.encode("utf-8", "surrogateescape") in (target / "frames.csv").read_bytes()


def test_progress_counts_pictures(tmp_path, target):
    store(tmp_path / "iq/a.iq")
    store(tmp_path / "iq/b.iq", n=4000)
    assert list(making_spectrograms(tmp_path / "iq", target, SMALL)) == [(1, 3), (2, 3), (3, 3)]


def test_the_list_of_frames_keeps_those_of_a_recording_on_one_side_of_a_split(tmp_path, target):
    for label in ("dji", "fpv"):
        for number in range(6):
            store(tmp_path / f"iq/{label}/r{number}.iq", seed=hash((label, number)) % 2**32)
    finish(making_spectrograms(tmp_path / "iq", target, SMALL))
    with (target / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"path": "dji/r0_f01.jpg", "group": "dji/r0.iq", "frame": "1", "start_s": "0.004", **UNSAID}
    (tmp_path / "split").mkdir()
    report = split_dataset(target, tmp_path / "split", SplitParams(group_by=str(target / "frames.csv")))
    assert (report.n_groups, report.n_images) == (12, 24)
    sides = {}
    for path in pictures(tmp_path / "split"):
        part, label, name = path.split("/")
        sides.setdefault((label, name[:2]), set()).add(part)
    assert all(len(parts) == 1 for parts in sides.values())


def test_a_recording_that_ends_inside_a_frame_is_noted(tmp_path, target):
    store(tmp_path / "iq/a.iq", n=7999)
    report = finish(making_spectrograms(tmp_path / "iq", target, SMALL))
    assert report.n_images == 1
    assert "left out the last 3999 of 7999 samples" in report.notes[0]


def test_all_bad_recordings_are_named_before_any_picture_is_made(tmp_path, target):
    store(tmp_path / "iq/a/good.iq")
    (tmp_path / "iq/a/odd.iq").write_bytes(bytes(8 * 4000 + 3))
    store(tmp_path / "iq/a/short.iq", n=10)
    with pytest.raises(DatasetError, match=r"2 recordings cannot be used: .*odd\.iq; .*short\.iq"):
        finish(making_spectrograms(tmp_path / "iq", target, SMALL))
    assert pictures(target) == []


def test_two_recordings_of_one_stem_are_an_error(tmp_path, target):
    store(tmp_path / "iq/a/x.iq")
    store(tmp_path / "iq/a/X.dat")
    with pytest.raises(DatasetError, match="images of the same name"):
        finish(making_spectrograms(tmp_path / "iq", target, SMALL))


def test_an_empty_folder_is_an_error(tmp_path, target):
    with pytest.raises(DatasetError, match="found no recording"):
        finish(making_spectrograms(target, target, SMALL))
