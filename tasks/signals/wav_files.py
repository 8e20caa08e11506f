"""Reads I/Q recordings from WAV files of SDR programs, also above 4 GB and with wrong sizes.

Sources: Microsoft's Multiple Channel Audio Data and WAVE Files (WAVE_FORMAT_EXTENSIBLE); EBU Tech 3306 (RF64, ds64);
ITU-R BS.2088 (BW64); SpectraVue User Guide, "auxi" (also SDR#'s, HDSDR's, SDRuno's and SDRangel's); SDR Console's
"auxi" is XML in UTF-16.
"""

import os
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from tasks.base.errors import DatasetError
from tasks.base.outside import open_file
from tasks.signals.iq_layout import INT24, Layout, Stored

_KINDS = (b"RIFF", b"RF64", b"BW64")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_STORED = {
    (_PCM, 1): Stored("u1", 128, 128),
    (_PCM, 2): Stored("<i2", 0, 2**15),
    (_PCM, 3): Stored(INT24, 0, 2**23),
    (_PCM, 4): Stored("<i4", 0, 2**31),
    (_FLOAT, 4): Stored("<f4"),
    (_FLOAT, 8): Stored("<f8"),
}
_MAX_CHUNKS, _MAX_CHUNK_BYTES = 1000, 2**16  # looked at, and read of one
_UNKNOWN = 0xFFFFFFFF  # the size is in ds64, or was never written
_UNFINISHED = "its header was never finished, everything behind it is taken for samples"
_TRAILER_BYTES = 2**16  # so little behind the samples may be somebody's tag or padding, and is not taken for samples


@dataclass(frozen=True, slots=True)
class _Chunk:
    at: int  # of its content
    size: int


def is_wav(head: bytes) -> bool:
    """Return whether a file that begins so is a WAV file."""
    return head[:4] in _KINDS and head[8:12] == b"WAVE"


def read_wav(path: Path) -> Layout:
    """Return where and how the samples of a WAV file are stored, its rate, and frequency and time where it has them.

    A size of the samples that was never written, is too large, or has run over 32 bits gives way to that of the file.

    Raises:
        DatasetError: it is no WAV file, has other than two channels, or stores them in another way than PCM of 8 to 32
            bits or IEEE float.
    """
    with open_file(path, DatasetError) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if not is_wav(head):
            raise DatasetError(f"found a file that begins with {head!r}, need a WAV file (RIFF, RF64 or BW64): {path}")
        chunks, note = _chunks(file, size, path)
        if missing := [name.decode() for name in (b"fmt ", b"data") if name not in chunks]:
            raise DatasetError(f"found no chunk {' and no '.join(map(repr, missing))}, need a whole WAV file: {path}")
        stored, name, rate = _format(_content(file, chunks[b"fmt "]), path)
        center, start = _auxi(_content(file, chunks[b"auxi"])) if b"auxi" in chunks else (None, None)
    data = chunks[b"data"]
    n_samples = data.size // (2 * stored.value_bytes)
    return Layout(name, stored, rate, data.at, n_samples, center_hz=center, start=start, note=note)


def _content(file: BinaryIO, chunk: _Chunk) -> bytes:
    file.seek(chunk.at)
    return file.read(min(chunk.size, _MAX_CHUNK_BYTES))


def _chunks(file: BinaryIO, size: int, path: Path) -> tuple[dict[bytes, _Chunk], str | None]:
    """Return the first chunk of every name, and what is wrong with the size of the samples."""
    found: dict[bytes, _Chunk] = {}
    note = None
    at = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        name, told = struct.unpack("<4sI", head)
        n = told
        if name == b"data":
            n, note = _data_size(file, _Chunk(at + 8, told), size, found.get(b"ds64"))
            note = f"{note}: {path}" if note else None
        found.setdefault(name, _Chunk(at + 8, n))
        at += 8 + n + n % 2
    return found, note


def _data_size(file: BinaryIO, told: _Chunk, size: int, ds64: _Chunk | None) -> tuple[int, str | None]:
    """Return how many bytes of samples there are, and a note where that is not what the file says."""
    rest = size - told.at
    n = told.size
    if n == _UNKNOWN and ds64 is not None:
        content = _content(file, ds64)
        n = struct.unpack_from("<Q", content, 8)[0] if len(content) >= 16 else n
    elif n not in {0, _UNKNOWN} and rest > n:
        n += (rest - n) >> 32 << 32  # counted in 32 bits by a program that went on writing
    if n == _UNKNOWN:
        return rest, _UNFINISHED if rest else None
    if n > rest:
        return rest, f"cut off: its header promises {n} bytes of samples, {rest} are there"
    if _ends_well(file, told.at + n, size):
        return n, None
    behind = rest - n
    if behind <= _TRAILER_BYTES:
        return n, f"its header counts {n} bytes of samples, the {behind} that follow are no chunk and are left out"
    if n == 0:
        return rest, _UNFINISHED
    return rest, f"its header counts {n} bytes of samples and {rest} follow, which are all taken for samples"


def _ends_well(file: BinaryIO, at: int, size: int) -> bool:
    """Return whether the file ends at `at`, or something that looks like another chunk begins."""
    file.seek(at + at % 2)
    head = file.read(8)
    if len(head) < 8:
        return True
    name, n = struct.unpack("<4sI", head)
    return all(32 <= letter < 127 for letter in name) and at + 8 + n <= size + 1


def _format(content: bytes, path: Path) -> tuple[Stored, str, float | None]:
    """Return how I and Q are stored, how that is called, and the rate."""
    if len(content) < 16:
        raise DatasetError(f"found {len(content)} bytes that describe the samples, need at least 16: {path}")
    tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", content)
    if tag == _EXTENSIBLE and len(content) >= 26:
        tag = struct.unpack_from("<H", content, 24)[0]  # what its GUID begins with
    if channels != 2:
        raise DatasetError(f"found {channels} channel(s), need 2, I and Q: {path}")
    width = block // 2 or -(-bits // 8)  # 24 bits may lie in four bytes, at the upper end
    stored = _STORED.get((tag, width))
    if stored is None:
        raise DatasetError(
            f"found samples of {bits} bits in format {tag:#x}, need PCM (0x1) of 8, 16, 24 or 32 or float (0x3) of 32 "
            f"or 64: {path}"
        )
    return stored, f"wav_{'f' if tag == _FLOAT else 'i'}{8 * width}", float(rate) if rate else None


def _auxi(content: bytes) -> tuple[float | None, datetime | None]:
    """Return the centre frequency, Hz, and the time of the first sample that a program wrote down."""
    text = content.replace(b"\0", b"").decode("latin-1")  # UTF-16 of what is ASCII: every other byte is zero
    if "<" in text[:8]:
        frequency = re.search(r'\bRadioCenterFreq="(\d{1,15})', text)
        seconds = re.search(r'\bUTCSeconds="(\d{1,11})"', text)
        return (
            float(frequency[1]) or None if frequency else None,
            datetime.fromtimestamp(int(seconds[1]), UTC) if seconds else None,
        )
    if len(content) < 36:
        return None, None
    year, month, _, day, hour, minute, second, ms = struct.unpack_from("<8H", content)
    (frequency_hz,) = struct.unpack_from("<I", content, 32)
    try:
        start = datetime(year, month, day, hour, minute, second, 1000 * ms, UTC)
    except ValueError:  # never filled in
        start = None
    return float(frequency_hz) or None, start
