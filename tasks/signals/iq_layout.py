"""Describes how samples are stored in a file, and reads them as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import open_file
from tasks.signals.params import Datatype

INT24 = "<i3"
"""Three bytes, as WAV files have them; no type of numpy's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How I and Q are stored, and what makes numbers of -1 to 1 of them: (value - zero) / full."""

    dtype: str  # of numpy or INT24, for one of the two
    zero: float = 0
    full: float = 1

    @property
    def value_bytes(self) -> int:
        """Bytes of I or Q."""
        return 3 if self.dtype == INT24 else np.dtype(self.dtype).itemsize


_RAW: Mapping[Datatype, Stored] = {
    "cf32_le": Stored("<f4"),
    "cf32_be": Stored(">f4"),
    "ci16_le": Stored("<i2", 0, 2**15),
    "ci16_be": Stored(">i2", 0, 2**15),
    "ci8": Stored("i1", 0, 2**7),
    "cu8": Stored("u1", 127.5, 127.5),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in its file the samples of a recording are, how they are stored, and what else the file says."""

    name: str  # how they are stored, for people
    stored: Stored
    sample_rate_hz: float | None = None  # None: nothing says it
    offset: int = 0  # bytes before the first sample
    n_samples: int | None = None  # None: as many as the file has room for
    planar: bool = False  # all of I, then all of Q
    center_hz: float | None = None
    start: datetime | None = None  # of the first sample, in UTC
    note: str | None = None  # what is wrong with the file, and what is made of it

    @property
    def sample_bytes(self) -> int:
        """Bytes of one complex sample."""
        return 2 * self.stored.value_bytes


def raw_layout(datatype: Datatype, sample_rate_hz: float | None = None) -> Layout:
    """Return the layout of a file of nothing but interleaved I and Q."""
    return Layout(datatype, _RAW[datatype], sample_rate_hz)


def read_samples(path: Path, layout: Layout, start: int, count: int) -> NDArray[np.complex64]:
    """Return up to `count` samples from number `start` on; fewer where the recording ends. Full scale is 1.

    Only these samples are read, wherever in a file of whatever length they are.
    """
    if layout.n_samples is not None:
        count = max(0, min(count, layout.n_samples - start))
    with open_file(path, DatasetError) as file:
        if not layout.planar:
            values = _read(file, layout, layout.offset + start * layout.sample_bytes, 2 * count)
            return values[: len(values) // 2 * 2].view(np.complex64)
        assert layout.n_samples is not None, "else nothing says where Q begins"
        parts = [
            _read(file, layout, layout.offset + (first + start) * layout.stored.value_bytes, count)
            for first in (0, layout.n_samples)
        ]
    samples = np.empty(min(len(part) for part in parts), np.complex64)
    samples.real, samples.imag = (part[: len(samples)] for part in parts)
    return samples


def _read(file: BinaryIO, layout: Layout, at: int, count: int) -> NDArray[np.float32]:
    """Return up to `count` numbers that are stored from byte `at` on."""
    stored = layout.stored
    file.seek(at)
    if stored.dtype == INT24:
        read = np.fromfile(file, np.uint8, 3 * count)
        wide = np.zeros((len(read) // 3, 4), np.uint8)
        wide[:, 1:] = read[: 3 * len(wide)].reshape(-1, 3)  # as the upper bytes: the sign is right, the scale 256-fold
        return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2**-8 / stored.full)
    values = np.fromfile(file, np.dtype(stored.dtype), count)
    numbers = values.astype(np.float32, copy=False)
    if stored.full != 1:
        numbers = (numbers - np.float32(stored.zero)) * np.float32(1 / stored.full)
    return numbers
