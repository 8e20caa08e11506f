"""Clean recordings become the folders the benchmark reads, the same ones again, by the recipe written beside them."""

import csv
import json

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.base.progress import finish
from tasks.inference.snr.benchmark import find_snr_sets
from tasks.inference.snr.noisy_spectrograms import mixing
from tasks.signals.params import MixParams, SpectrogramParams

RATE = 1e6
GREY = SpectrogramParams(
    sample_rate_hz=RATE, frame_s=4e-3, n_fft=128, width=64, height=128, colour_map="gray", db_range=(-60.0, 20.0)
)


def store(path, n=8000, turns=0.25):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.exp(2j * np.pi * turns * np.arange(n)).astype("<c8").tobytes())
    return path


def make(tmp_path, mix, name="out", params=GREY):
    target = tmp_path / name
    target.mkdir()
    return target, finish(mixing(tmp_path / "iq", target, mix, params))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_every_frame_is_there_at_every_snr(tmp_path):
    store(tmp_path / "iq/dji/a.iq")
    store(tmp_path / "iq/fpv/far/b.iq", n=4000)
    target, report = make(tmp_path, MixParams(snrs_db=(-10, 2.5)))
    assert sorted(files(target)) == [
        *("-10dB/dji/a_f00.jpg", "-10dB/dji/a_f01.jpg", "-10dB/fpv/far__b_f00.jpg"),
        *("2.5dB/dji/a_f00.jpg", "2.5dB/dji/a_f01.jpg", "2.5dB/fpv/far__b_f00.jpg"),
    ]
    assert (report.n_recordings, report.n_frames, report.classes) == (2, 3, ["dji", "fpv"])
    assert [one.snr_db for one in find_snr_sets(target)] == [-10, 2.5]


def test_the_recipe_lies_beside_the_pictures(tmp_path):
    store(tmp_path / "iq/dji/a.iq")
    target, _ = make(tmp_path, MixParams(snrs_db=(0,), seed=7, max_frames=1))
    recipe = json.loads((target / "recipe.json").read_text())
    assert (recipe["mix"]["seed"], recipe["spectrogram"]["n_fft"], recipe["n_frames"]) == (7, 128, 1)
    with (target / "frames.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["recording"], row["frame"]) == ("dji/a.iq", "0")
    assert float(row["power"]) == pytest.approx(1, rel=1e-4)
    assert float(row["bandwidth_hz"]) == RATE


def test_the_noise_between_the_signal_has_the_db_the_recipe_says(tmp_path):
    store(tmp_path / "iq/dji/a.iq", n=4000)
    target, _ = make(tmp_path, MixParams(snrs_db=(-20, 0)))
    # White noise of power 1 has, in each bin of a Hamming window, 10 log10(sum w^2 / (sum w)^2) dB.
    window = np.hamming(128)
    floor = 10 * np.log10((window**2).sum() / window.sum() ** 2)
    for snr_db in (-20, 0):
        picture = cv2.imread(str(target / f"{snr_db}dB/dji/a_f00.jpg"), cv2.IMREAD_GRAYSCALE)
        decibel = picture[70:, 5:-5].mean() / 256 * 80 - 60  # below the middle: no tone there
        # Mean of dB lies 2.5 dB under the dB of the mean: the power of noise is exponentially distributed.
        assert decibel == pytest.approx(floor - snr_db - 2.51, abs=0.7)


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(tmp_path):
    store(tmp_path / "iq/dji/a.iq")
    first, _ = make(tmp_path, MixParams(snrs_db=(0,)), "first")
    store(tmp_path / "iq/dji/0.iq")  # another recording changes nothing for this one
    second, _ = make(tmp_path, MixParams(snrs_db=(0,)), "second")
    third, _ = make(tmp_path, MixParams(snrs_db=(0,), seed=1), "third")
    assert files(first).items() <= files(second).items()
    assert all(files(third)[name] != data for name, data in files(first).items())


def test_recorded_noise_is_mixed_in(tmp_path):
    store(tmp_path / "iq/dji/a.iq", n=4000)
    noise = store(tmp_path / "noise/n.iq", n=300, turns=-0.25)
    target, report = make(tmp_path, MixParams(snrs_db=(0,), noise=str(noise)))
    picture = cv2.imread(str(target / "0dB/dji/a_f00.jpg"), cv2.IMREAD_GRAYSCALE)
    rows = picture[:, 20:-20].mean(axis=1)
    assert report.n_noise_recordings == 1
    assert set(np.argsort(rows)[-2:]) == {31, 95}  # +250 kHz and -250 kHz, equally strong
    assert rows[31] == pytest.approx(rows[95], abs=3)


def test_a_recording_outside_a_class_is_an_error(tmp_path):
    store(tmp_path / "iq/a.iq")
    with pytest.raises(DatasetError, match=r"outside the folder of a class, need <class>/<recording>: .*a\.iq"):
        make(tmp_path, MixParams(snrs_db=(0,)))


def test_a_silent_frame_is_named(tmp_path):
    (tmp_path / "iq/dji").mkdir(parents=True)
    (tmp_path / "iq/dji/a.iq").write_bytes(bytes(8 * 4000))
    with pytest.raises(DatasetError, match=r"nothing but zeros.*frame 0 of .*a\.iq"):
        make(tmp_path, MixParams(snrs_db=(0,)))


def test_noise_of_another_sample_rate_is_an_error(tmp_path):
    store(tmp_path / "iq/dji/a.iq")
    (tmp_path / "n.sigmf-data").write_bytes(bytes(800))
    (tmp_path / "n.sigmf-meta").write_text(
        json.dumps({"global": {"core:datatype": "cf32_le", "core:sample_rate": 5e5}})
    )
    with pytest.raises(DatasetError, match=r"found noise of 500000 samples/s, need 1e\+06"):
        make(tmp_path, MixParams(snrs_db=(0,), noise=str(tmp_path / "n.sigmf-data")))
