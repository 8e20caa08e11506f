"""WAV files of I and Q as several programs write them, whole, above 4 GB, cut off and never finished."""

import struct
from datetime import UTC, datetime

import av
import numpy as np
import pytest
from scipy.io import wavfile

from tasks.base.errors import DatasetError
from tasks.signals.iq_files import find_recordings, read_layout
from tasks.signals.iq_layout import read_samples
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import open_recording, read_frames

RATE = 2_000_000
IQ = (np.exp(2j * np.pi * 0.1 * np.arange(2000)) * np.linspace(0.1, 0.9, 2000)).astype(np.complex64)
PARTS = IQ.view(np.float32)
START = datetime(2026, 7, 31, 16, 50, 31, 570_000, UTC)
PARAMS = SpectrogramParams(frame_s=1e-3, n_fft=128)


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def form(tag=1, channels=2, bits=16, block=None, extra=b""):
    block = block or channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, RATE, RATE * block, block, bits) + extra)


def extensible(tag, bits, valid):
    guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
    return form(0xFFFE, 2, bits, extra=struct.pack("<HHI", 22, valid, 3) + guid)


def wav(path, *chunks, kind=b"RIFF"):
    body = b"WAVE" + b"".join(chunks)
    path.write_bytes(kind + struct.pack("<I", 0xFFFFFFFF if kind != b"RIFF" else len(body)) + body)
    return path


def int16():
    return np.round(PARTS * 2**15).astype("<i2").tobytes()


def samples(path):
    layout = read_layout(path)
    return read_samples(path, layout, 0, layout.n_samples)


STORED = {
    "wav_i8": (form(bits=8), np.round(PARTS * 128 + 128).astype("u1").tobytes(), 1 / 128),
    "wav_i16": (form(bits=16), int16(), 2**-15),
    "wav_i24": (
        form(bits=24),
        np.round(PARTS.astype("f8") * 2**23).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes(),
        2**-23,
    ),
    "wav_i32": (form(bits=32), np.round(PARTS.astype("f8") * 2**31).astype("<i4").tobytes(), 1e-7),
    "wav_f32": (form(3, bits=32), PARTS.astype("<f4").tobytes(), 0),
    "wav_f64": (form(3, bits=64), PARTS.astype("<f8").tobytes(), 0),
}


@pytest.mark.parametrize("name", STORED)
def test_every_way_of_storing_gives_the_same_numbers(tmp_path, name):
    fmt, data, tolerance = STORED[name]
    path = wav(tmp_path / "a.wav", fmt, chunk(b"LIST", b"INFOISFT"), chunk(b"data", data))
    layout = read_layout(path)
    assert (layout.name, layout.sample_rate_hz, layout.n_samples, layout.note) == (name, RATE, 2000, None)
    np.testing.assert_allclose(samples(path), IQ, atol=1.5 * tolerance)
    np.testing.assert_array_equal(read_samples(path, layout, 700, 5), samples(path)[700:705])
    assert len(read_samples(path, layout, 1999, 5)) == 1


@pytest.mark.parametrize(("tag", "bits", "valid"), [(1, 16, 16), (1, 32, 24), (3, 32, 32)])
def test_the_extensible_format_is_what_it_extends(tmp_path, tag, bits, valid):
    plain = STORED[f"wav_{'f' if tag == 3 else 'i'}{bits}"]
    path = wav(tmp_path / "a.wav", extensible(tag, bits, valid), chunk(b"data", plain[1]))
    np.testing.assert_allclose(samples(path), IQ, atol=1.5 * plain[2])


def test_24_bits_in_four_bytes_are_at_their_upper_end(tmp_path):
    path = wav(tmp_path / "a.wav", form(bits=24, block=8), chunk(b"data", STORED["wav_i32"][1]))
    np.testing.assert_allclose(samples(path), IQ, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i4", "<f4", "<f8"])
def test_what_scipy_writes_is_read(tmp_path, dtype):
    full = {"u1": 127, "<i2": 2**15 - 1, "<i4": 2**31 - 1}.get(dtype, 1)
    pairs = PARTS.reshape(-1, 2).astype("f8") * full + (128 if dtype == "u1" else 0)
    wavfile.write(tmp_path / "a.wav", RATE, pairs.astype(dtype))
    np.testing.assert_allclose(samples(tmp_path / "a.wav"), IQ, atol=0.02 if dtype == "u1" else 1e-4)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("rf64", ["never", "always"])
def test_what_ffmpeg_writes_is_read(tmp_path, codec, rf64):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w", format="wav", options={"rf64": rf64}) as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(PARTS.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert path.read_bytes()[:4] == (b"RF64" if rf64 == "always" else b"RIFF")
    assert read_layout(path).sample_rate_hz == 48000
    np.testing.assert_allclose(samples(path), IQ, atol=0.02 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize("kind", [b"RF64", b"BW64"])
def test_a_file_of_more_than_4_gb_is_read_where_it_is_asked(tmp_path, kind):
    n = 5 * 2**30 // 4
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 4 * n + 72, 4 * n, n, 0))
    path = wav(tmp_path / "a.wav", ds64, form(), b"data" + struct.pack("<I", 0xFFFFFFFF), kind=kind)
    head = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(head + 4 * n)  # a hole: it takes no room
        file.seek(head + 4 * (n - 2000))
        file.write(int16())
    layout = read_layout(path)
    assert (layout.n_samples, layout.note) == (n, None)
    np.testing.assert_allclose(read_samples(path, layout, n - 2000, 3000), IQ, atol=1e-4)


@pytest.mark.parametrize("told", [0, 0xFFFFFFFF, 5 * 2**30 % 2**32, 2**31])
def test_a_size_that_32_bits_cannot_hold_gives_way_to_that_of_the_file(tmp_path, told):
    path = wav(tmp_path / "a.wav", form(), b"data" + struct.pack("<I", told))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 5 * 2**30)
        file.seek(44)
        file.write(int16())
        file.seek(44 + 2**31)  # samples, and no other chunk
        file.write(int16())
    layout = read_layout(path)
    assert layout.n_samples == 5 * 2**30 // 4
    assert bool(layout.note) == (told in {0, 0xFFFFFFFF, 2**31})


def test_a_recording_that_was_cut_off_gives_what_is_there_and_says_so(tmp_path):
    path = wav(tmp_path / "a.wav", form(), chunk(b"data", int16()))
    path.write_bytes(path.read_bytes()[:-4001])
    layout = read_layout(path)
    assert layout.n_samples == 999
    assert layout.note == f"cut off: its header promises 8000 bytes of samples, 3999 are there: {path}"
    recording = open_recording(path, SpectrogramParams(frame_s=3e-4, n_fft=128))
    assert "cut off" in recording.note
    assert "left out the last 399" in recording.note


def test_what_follows_the_samples_is_no_sample(tmp_path):
    path = wav(tmp_path / "a.wav", form(), chunk(b"data", int16()), chunk(b"LIST", b"INFOISFT\0\0\0\0"))
    assert read_layout(path).n_samples == 2000


TAG = b"TAG" + b"a recording".ljust(125, b"\0")  # ID3v1


@pytest.mark.parametrize("content", [b"", int16()])
@pytest.mark.parametrize("behind", [TAG, bytes(10), bytes(2**16), b"\x01" * 2**16])
def test_a_little_behind_the_samples_that_is_no_chunk_is_left_out_and_said(tmp_path, content, behind):
    path = wav(tmp_path / "a.wav", form(), chunk(b"data", content), behind)
    layout = read_layout(path)
    assert layout.n_samples == len(content) // 4
    if not content:
        with pytest.raises(DatasetError, match=r"found 0 samples, need 2000 .*no chunk and are left out: .*a\.wav"):
            open_recording(path, PARAMS)
    assert f"{len(content)} bytes of samples, the {len(behind)} that follow are no chunk and are left" in layout.note


def test_a_recording_of_no_samples_with_a_chunk_behind_it_has_none(tmp_path):
    layout = read_layout(wav(tmp_path / "a.wav", form(), chunk(b"data", b""), chunk(b"LIST", b"INFOISFT\0\0\0\0")))
    assert (layout.n_samples, layout.note) == (0, None)


@pytest.mark.parametrize("told", [0, 4000])
def test_much_behind_the_samples_that_is_no_chunk_is_samples(tmp_path, told):
    path = wav(tmp_path / "a.wav", form(), b"data" + struct.pack("<I", told) + int16() * 20)
    layout = read_layout(path)
    assert layout.n_samples == 40_000
    assert "taken for samples" in layout.note


def system_time(moment):
    fields = (moment.year, moment.month, 5, moment.day, moment.hour, moment.minute, moment.second)
    return struct.pack("<8H", *fields, moment.microsecond // 1000)


def spectravue(center=98_500_000, start=START):
    """As SpectraVue, SDR#, HDSDR, SDRuno and SDRangel have it."""
    times = system_time(start) + bytes(16)
    return chunk(
        b"auxi", times + struct.pack("<9I", center, RATE, 0, 200_000, 0, 0, 0, 0, 0) + b"next.wav".ljust(96, b"\0")
    )


def sdr_console(encoding="utf-16-le"):
    xml = (
        '<?xml version="1.0"?>\r\n<SDR-XML-Root xml:lang="EN" Created="31-Jul-2026 16:50"><Definition '
        'CurrentTimeUTC="31-07-2026 16:50:31" SoftwareName="SDR Console" ADFrequency="0" BitsPerSample="16" '
        f'RadioCenterFreq="2440000000" SampleRate="{RATE}" UTCSeconds="1785516631"/></SDR-XML-Root>\0'
    )
    return chunk(b"auxi", xml.encode(encoding))


@pytest.mark.parametrize(
    ("auxi", "center", "start"),
    [
        (spectravue(), 98_500_000, START),
        (spectravue(4_200_000_000), 4_200_000_000, START),
        (sdr_console(), 2_440_000_000, START.replace(microsecond=0)),
        (sdr_console("ascii"), 2_440_000_000, START.replace(microsecond=0)),
        (chunk(b"auxi", bytes(164)), None, None),
        (chunk(b"auxi", bytes(20)), None, None),
        (b"", None, None),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_frequency_and_time_are_those_of_the_program(tmp_path, auxi, center, start, behind):
    order = [chunk(b"data", int16()), auxi] if behind else [auxi, chunk(b"data", int16())]
    layout = read_layout(wav(tmp_path / "a.wav", form(), *order))
    assert (layout.center_hz, layout.start) == (center, start)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([form(channels=1), chunk(b"data", bytes(8))], r"found 1 channel\(s\), need 2, I and Q"),
        ([form(channels=4), chunk(b"data", bytes(8))], r"found 4 channel\(s\)"),
        ([form(tag=2, bits=4), chunk(b"data", bytes(8))], "found samples of 4 bits in format 0x2, need PCM"),
        ([chunk(b"data", bytes(8))], "found no chunk 'fmt '"),
        ([form()], "found no chunk 'data'"),
        ([chunk(b"fmt ", bytes(4)), chunk(b"data", bytes(8))], "found 4 bytes that describe the samples"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, chunks, message):
    with pytest.raises(DatasetError, match=rf"{message}.*a\.wav"):
        open_recording(wav(tmp_path / "a.wav", *chunks), PARAMS)


def test_a_file_that_is_only_called_so_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(bytes(100))
    with pytest.raises(DatasetError, match=r"need a WAV file .*a\.wav"):
        open_recording(tmp_path / "a.wav", PARAMS)


def test_its_header_comes_before_its_name_and_before_the_parameters(tmp_path):
    path = wav(tmp_path / "a.iq", form(), chunk(b"data", int16()))
    recording = open_recording(path, PARAMS.model_copy(update={"datatype": "ci8"}))
    assert (recording.n_samples, recording.sample_rate_hz, recording.layout.name) == (2000, RATE, "wav_i16")
    (frame,) = read_frames(recording, PARAMS)
    np.testing.assert_allclose(frame.iq, IQ, atol=1e-4)


def test_a_folder_is_searched_for_them(tmp_path):
    wav(tmp_path / "a.WAV", form(), chunk(b"data", int16()))
    np.save(tmp_path / "b.npy", IQ)
    assert [path.name for path in find_recordings(tmp_path)] == ["a.WAV", "b.npy"]
