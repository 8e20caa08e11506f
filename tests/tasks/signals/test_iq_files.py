"""Samples of every format become the same numbers, and SigMF metadata are believed or refused with their name."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest

from tasks.base.errors import ConfigError, DatasetError
from tasks.signals.iq_files import find_recordings, read_layout
from tasks.signals.iq_layout import raw_layout, read_samples
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import open_recording, read_frames

IQ = np.array([0.5 - 0.25j, -1 + 0.125j, 0.75 + 0.5j], dtype=np.complex64)
PARTS = IQ.view(np.float32)
BYTES = {
    "cf32_le": PARTS.astype("<f4").tobytes(),
    "cf32_be": PARTS.astype(">f4").tobytes(),
    "ci16_le": (PARTS * 2**15).astype("<i2").tobytes(),
    "ci16_be": (PARTS * 2**15).astype(">i2").tobytes(),
    "ci8": (PARTS * 2**7).astype("i1").tobytes(),
}


def store_sigmf(folder, meta, data=bytes(8 * 4000), name="a"):
    (folder / f"{name}.sigmf-data").write_bytes(data)
    (folder / f"{name}.sigmf-meta").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return folder / f"{name}.sigmf-data"


@pytest.mark.parametrize("datatype", BYTES)
def test_every_datatype_gives_the_same_numbers(tmp_path, datatype):
    path = tmp_path / "a.iq"
    path.write_bytes(BYTES[datatype])
    np.testing.assert_array_equal(read_samples(path, raw_layout(datatype), 0, 3), IQ)
    np.testing.assert_array_equal(read_samples(path, raw_layout(datatype), 1, 1), IQ[1:2])


def test_unsigned_bytes_are_centred_and_reach_from_minus_one_to_one(tmp_path):
    path = tmp_path / "a.cu8"
    path.write_bytes(bytes([0, 255, 127, 128]))
    found = read_samples(path, raw_layout("cu8"), 0, 2)
    np.testing.assert_allclose(found, [-1 + 1j, (-0.5 + 0.5j) / 127.5], atol=1e-7)


def test_the_end_of_the_file_gives_fewer_samples(tmp_path):
    path = tmp_path / "a.iq"
    path.write_bytes(BYTES["cf32_le"])
    assert len(read_samples(path, raw_layout("cf32_le"), 2, 5)) == 1
    assert len(read_samples(path, raw_layout("cf32_le"), 3, 5)) == 0


@pytest.mark.parametrize(
    ("suffix", "datatype"),
    [
        (".iq", "cf32_le"),
        (".dat", "cf32_le"),
        (".cs16", "ci16_le"),
        (".CS8", "ci8"),
        (".cu8", "cu8"),
        (".x", "cf32_le"),
    ],
)
def test_without_metadata_the_suffix_says_the_datatype(tmp_path, suffix, datatype):
    (tmp_path / f"a{suffix}").write_bytes(bytes(8))
    assert read_layout(tmp_path / f"a{suffix}") == raw_layout(datatype)


def test_sigmf_metadata_say_datatype_byte_order_and_rate(tmp_path):
    iq = np.exp(2j * np.pi * 0.25 * np.arange(4000)) * 0.5
    values = np.round(iq.view(np.float64) * 2**15).astype(">i2")
    meta = {"global": {"core:datatype": "ci16_be", "core:sample_rate": 2e6, "core:num_channels": 1}}
    recording = open_recording(
        store_sigmf(tmp_path, meta, values.tobytes()), SpectrogramParams(frame_s=2e-3, n_fft=128)
    )
    assert (recording.layout.name, recording.sample_rate_hz, recording.n_samples) == ("ci16_be", 2e6, 4000)
    (frame,) = read_frames(recording, SpectrogramParams(frame_s=2e-3, n_fft=128))
    np.testing.assert_allclose(frame.iq, iq, atol=1e-4)


def test_a_datatype_given_by_a_person_comes_before_the_metadata(tmp_path):
    path = store_sigmf(tmp_path, {"global": {"core:datatype": "ci16_le", "core:sample_rate": 1e6}})
    params = SpectrogramParams(frame_s=1e-3, n_fft=128, datatype="ci8")
    assert open_recording(path, params).n_samples == 16000


def test_metadata_describe_a_file_of_another_suffix_by_its_name(tmp_path):
    store_sigmf(tmp_path, {"global": {"core:datatype": "ci8", "core:dataset": "a.bin"}})
    for name in ("a.bin", "a.iq"):
        (tmp_path / name).write_bytes(bytes(8))
    assert read_layout(tmp_path / "a.bin") == raw_layout("ci8")
    assert read_layout(tmp_path / "a.iq") == raw_layout("cf32_le")


def test_metadata_say_frequency_and_time_of_the_first_sample(tmp_path):
    captures = [{"core:sample_start": 0, "core:frequency": 2.44e9, "core:datetime": "2024-05-01T12:00:00.250Z"}]
    layout = read_layout(store_sigmf(tmp_path, {"global": {"core:datatype": "ci8"}, "captures": captures}))
    assert (layout.center_hz, layout.start) == (2.44e9, datetime(2024, 5, 1, 12, 0, 0, 250_000, UTC))


@pytest.mark.parametrize("captures", [[], None, 3, [4], [{"core:frequency": "high", "core:datetime": "yesterday"}]])
def test_a_frequency_or_time_that_is_none_is_not_said(tmp_path, captures):
    layout = read_layout(store_sigmf(tmp_path, {"global": {"core:datatype": "ci8"}, "captures": captures}))
    assert (layout.center_hz, layout.start) == (None, None)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "need SigMF metadata"),
        ({"global": {"core:datatype": "rf32_le"}}, "found core:datatype 'rf32_le', need one of cf32_le"),
        ({"global": {"core:datatype": "ci8", "core:num_channels": 2}}, "found 2 channels, need 1"),
        ({"global": {"core:datatype": "ci8", "core:sample_rate": -1}}, "found core:sample_rate -1, need a number"),
        (
            {"global": {"core:datatype": "ci8"}, "captures": [{"core:header_bytes": 4}]},
            "found bytes that are no samples",
        ),
    ],
)
def test_metadata_that_cannot_be_followed_are_an_error_with_their_file(tmp_path, meta, message):
    with pytest.raises(DatasetError, match=rf"{message}.*a\.sigmf-meta"):
        read_layout(store_sigmf(tmp_path, meta))


def test_a_rate_too_low_for_a_frame_is_an_error(tmp_path):
    path = store_sigmf(tmp_path, {"global": {"core:datatype": "ci8", "core:sample_rate": 1e3}})
    with pytest.raises(DatasetError, match=r"is 10 samples; need at least n_fft 1024: .*a\.sigmf-data"):
        open_recording(path, SpectrogramParams(frame_s=0.01))


@pytest.mark.parametrize(("datatype", "n_bytes"), [("cf32_le", 8003), ("ci16_le", 8002), ("ci8", 8001)])
def test_an_odd_length_is_an_error_in_every_format(tmp_path, datatype, n_bytes):
    path = tmp_path / "odd.iq"
    path.write_bytes(bytes(n_bytes))
    params = SpectrogramParams(sample_rate_hz=1e6, frame_s=5e-4, n_fft=128, datatype=datatype)
    with pytest.raises(DatasetError, match=rf"found {n_bytes} bytes, need a multiple of \d \({datatype}.*odd\.iq"):
        open_recording(path, params)


def test_a_tree_gives_its_recordings_sorted_and_nothing_else(tmp_path):
    names = ["b/x.iq", "a/y.sigmf-data", "a/y.sigmf-meta", "a/notes.txt", ".hidden/z.iq", "a/.w.iq", "c.CS16"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(8))
    found = [path.relative_to(tmp_path).as_posix() for path in find_recordings(tmp_path)]
    assert found == ["a/y.sigmf-data", "b/x.iq", "c.CS16"]
    assert find_recordings(tmp_path / "a/y.sigmf-meta") == [tmp_path / "a/y.sigmf-data"]


def test_an_empty_folder_and_a_missing_one_are_errors(tmp_path):
    with pytest.raises(DatasetError, match=r"found no recording, need files that end with one of .*\.cs16"):
        find_recordings(tmp_path)
    with pytest.raises(DatasetError, match="found nothing, need a recording"):
        find_recordings(tmp_path / "gone")


def test_a_link_out_of_the_allowed_roots_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "secret.iq").write_bytes(bytes(8))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.iq").symlink_to(tmp_path / "secret.iq")
    assert len(find_recordings(tmp_path / "data")) == 1
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"a\.iq leads outside the allowed roots"):
        find_recordings(tmp_path / "data")


READ_ALL = """
import resource, sys
from pathlib import Path
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import open_recording, read_frames
params = SpectrogramParams(sample_rate_hz=1e6, frame_s=1.0, hop_s=16.0)
recording = open_recording(Path(sys.argv[1]), params)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n = sum(1 for _ in read_frames(recording, params))
print(recording.n_samples, n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_recording_larger_than_memory_is_read_frame_by_frame(tmp_path):
    path = tmp_path / "long.iq"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 8 * 2**30)  # 8 GiB that take no room: zeros nobody wrote
    done = subprocess.run([sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True)
    n_samples, n_frames, grown_kib = map(int, done.stdout.split())
    assert (n_samples, n_frames) == (2**30, 1 + (2**30 - 10**6) // (16 * 10**6))
    assert grown_kib < 64 * 1024  # a frame has 8 MB; the 68 of them 544 MB
