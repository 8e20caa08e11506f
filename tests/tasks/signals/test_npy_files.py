"""Arrays that numpy.save wrote, in every shape and order that means I and Q."""

import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.signals.iq_files import read_layout
from tasks.signals.iq_layout import read_samples
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import open_recording, read_frames

IQ = (np.exp(2j * np.pi * 0.1 * np.arange(2000)) * np.linspace(0.1, 0.9, 2000)).astype(np.complex64)
PAIRS = IQ.view(np.float32).reshape(-1, 2)
PARAMS = SpectrogramParams(sample_rate_hz=1e6, frame_s=2e-3, n_fft=128)
ARRAYS = {
    "complex64": IQ,
    "complex128": IQ.astype(np.complex128),
    "big-endian": IQ.astype(">c8"),
    "a column": IQ[:, None],
    "a row by columns": np.asfortranarray(IQ[None]),
    "pairs": PAIRS,
    "pairs of float64": PAIRS.astype(np.float64),
    "pairs by columns": np.asfortranarray(PAIRS),
    "two rows": np.ascontiguousarray(PAIRS.T),
    "two rows by columns": np.asfortranarray(PAIRS.T),
    "int16": np.round(PAIRS * 2**15).astype(np.int16),
    "int32 in two rows": np.round(PAIRS.T.astype(np.float64) * 2**31).astype(np.int32),
    "int8": np.round(PAIRS * 2**7).astype(np.int8),
    "uint8": np.round(PAIRS * 127.5 + 127.5).astype(np.uint8),
    "uint16": np.round(PAIRS * 32767.5 + 32767.5).astype(np.uint16),
    "float16": PAIRS.astype(np.float16),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_gives_the_same_numbers(tmp_path, name):
    path = tmp_path / "a.npy"
    np.save(path, ARRAYS[name])
    layout = read_layout(path)
    assert (layout.n_samples, layout.sample_rate_hz) == (2000, None)
    coarse = {1: 0.008, 2: 5e-4}.get(ARRAYS[name].dtype.itemsize, 1e-6)
    np.testing.assert_allclose(read_samples(path, layout, 0, 5000), IQ, atol=coarse)
    np.testing.assert_allclose(read_samples(path, layout, 700, 5), IQ[700:705], atol=coarse)


def test_its_frames_are_read_at_the_rate_of_the_parameters(tmp_path):
    np.save(tmp_path / "a.npy", IQ)
    recording = open_recording(tmp_path / "a.npy", PARAMS)
    assert (recording.layout.name, recording.sample_rate_hz) == ("npy_complex64", 1e6)
    (frame,) = read_frames(recording, PARAMS)
    np.testing.assert_array_equal(frame.iq, IQ)


def test_an_array_larger_than_memory_is_read_where_it_is_asked(tmp_path):
    path, n = tmp_path / "a.npy", 2**35
    np.lib.format.open_memmap(path, "w+", np.complex64, (n,))[-2000:] = IQ  # a hole: it takes no room
    layout = read_layout(path)
    np.testing.assert_array_equal(read_samples(path, layout, n - 2000, 3000), IQ)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(100), r"found an array \(100,\) of float64, need complex numbers"),
        (np.zeros((100, 3)), r"found an array \(100, 3\) of float64"),
        (np.zeros((4, 100), np.complex64), r"found an array \(4, 100\) of complex64"),
        (np.zeros((100, 2), np.int64), r"found an array \(100, 2\) of int64"),
        (np.zeros((100, 2), bool), r"of bool"),
        (np.zeros(100, [("i", "<i2"), ("q", "<i2")]), r"need complex numbers"),
        (np.array([{}, {}], dtype=object), "found an array of Python objects"),
        (np.zeros(0, np.complex64), "found 0 samples"),
    ],
)
def test_an_array_of_something_else_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DatasetError, match=rf"{message}.*a\.npy"):
        open_recording(tmp_path / "a.npy", PARAMS)


def test_an_array_that_was_cut_off_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", IQ)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(DatasetError, match=r"cut off: found 15992 bytes of an array that has 16000: .*a\.npy"):
        open_recording(tmp_path / "a.npy", PARAMS)


@pytest.mark.parametrize("header", [b"", b"(" * 9000, b"{'descr': 3}", b"x" * 60000, b"\xff\xfe"])
def test_a_damaged_header_is_refused(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DatasetError, match=r"found no array of numpy's .*a\.npy"):
        open_recording(tmp_path / "a.npy", PARAMS)
