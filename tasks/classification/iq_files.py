"""Files of raw I/Q: which ones a folder holds, how their samples are stored, and a stretch of them as numbers."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.classification.signal_params import Datatype
from tasks.errors import DatasetError
from tasks.outside import check_file, open_file, read_json
from tasks.workspace import allowed_link

META, DATA = ".sigmf-meta", ".sigmf-data"
_FLOAT_SUFFIXES = (".iq", ".dat", ".bin", ".raw", ".cf32", ".fc32", ".cfile", ".c64", ".complex", DATA)
SUFFIX_DATATYPES: Mapping[str, Datatype] = {
    **dict.fromkeys(_FLOAT_SUFFIXES, "cf32_le"),
    **dict.fromkeys((".cs16", ".ci16", ".sc16"), "ci16_le"),
    **dict.fromkeys((".cs8", ".ci8", ".sc8"), "ci8"),
    ".cu8": "cu8",
}
"""Suffixes of the files that a folder is searched for, and what they hold where nothing else says it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How I and Q are stored, and what makes numbers of -1 to 1 of them: (value - zero) / full."""

    dtype: str  # of numpy, for one of the two
    zero: float
    full: float


_STORED: Mapping[Datatype, Stored] = {
    "cf32_le": Stored("<f4", 0, 1),
    "cf32_be": Stored(">f4", 0, 1),
    "ci16_le": Stored("<i2", 0, 2**15),
    "ci16_be": Stored(">i2", 0, 2**15),
    "ci8": Stored("i1", 0, 2**7),
    "cu8": Stored("u1", 127.5, 127.5),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of a recording besides its samples."""

    datatype: Datatype
    sample_rate_hz: float | None  # None: nothing says it

    @property
    def sample_bytes(self) -> int:
        """Bytes of one complex sample."""
        return 2 * np.dtype(_STORED[self.datatype].dtype).itemsize


def find_recordings(source: Path) -> list[Path]:
    """Return the recordings at `source`, sorted: itself, or those below it by their suffix.

    Names that start with a dot are passed over. A link to a file counts as that file, as long as it leads to an
    allowed root; one to a folder is not followed.

    Raises:
        DatasetError: there is nothing at `source`, no recording in it, or a folder cannot be read.
        ConfigError: a link leads outside the allowed roots.
    """
    if source.exists() and not source.is_dir():
        check_file(source, DatasetError)
        return [source.with_suffix(DATA) if source.suffix == META else source]
    if not source.is_dir():
        raise DatasetError(f"found nothing, need a recording of raw I/Q or a folder of them: {source}")

    def refuse(error: OSError) -> None:
        raise DatasetError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    found: list[Path] = []
    for root, folders, names in os.walk(source, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIX_DATATYPES:
                found.append(allowed_link(path))
    if not found:
        have = ", ".join(sorted(SUFFIX_DATATYPES))
        raise DatasetError(f"found no recording, need files that end with one of {have}: {source}")
    return sorted(found)


def read_layout(path: Path) -> Layout:
    """Return how the samples of a recording are stored: as its SigMF metadata say, else as its suffix does.

    Raises:
        DatasetError: the metadata cannot be read, or describe what is no single stream of complex samples.
    """
    meta = path.with_suffix(META)
    if meta.exists():
        content = _read_meta(meta)
        # A name of its own: the metadata of b.iq may lie beside an a.iq of the same stem.
        if path.suffix == DATA or content["global"].get("core:dataset") == path.name:
            return _layout_of(content, meta)
    return Layout(SUFFIX_DATATYPES.get(path.suffix.lower(), "cf32_le"), None)


def _read_meta(meta: Path) -> dict[str, Any]:
    content = read_json(meta, DatasetError)
    if not isinstance(content, dict) or not isinstance(content.get("global"), dict):
        raise DatasetError(f"found no object 'global', need SigMF metadata: {meta}")
    return content


def _layout_of(content: Mapping[str, Any], meta: Path) -> Layout:
    """Return what SigMF metadata say. Source: SigMF specification 1.2, global and captures objects."""
    told = content["global"]
    datatype, rate = told.get("core:datatype"), told.get("core:sample_rate")
    if datatype not in get_args(Datatype):
        have = ", ".join(get_args(Datatype))
        raise DatasetError(f"found core:datatype {datatype!r}, need one of {have}: {meta}")
    if told.get("core:num_channels", 1) != 1:
        raise DatasetError(f"found {told['core:num_channels']} channels, need 1: {meta}")
    captures = content.get("captures") or []
    if told.get("core:trailing_bytes") or any(capture.get("core:header_bytes") for capture in captures):
        raise DatasetError(f"found bytes that are no samples (header or trailer), need a file of samples alone: {meta}")
    if rate is None:
        return Layout(datatype, None)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise DatasetError(f"found core:sample_rate {rate!r}, need a number above 0: {meta}")
    return Layout(datatype, float(rate))


def read_samples(path: Path, datatype: Datatype, start: int, count: int) -> NDArray[np.complex64]:
    """Return up to `count` samples from number `start` on; fewer where the file ends. Full scale is 1.

    Only these samples are read, wherever in a file of whatever length they are.
    """
    stored = _STORED[datatype]
    dtype = np.dtype(stored.dtype)
    with open_file(path, DatasetError) as file:
        file.seek(2 * start * dtype.itemsize)
        values = np.fromfile(file, dtype=dtype, count=2 * count)
    values = values[: len(values) // 2 * 2]
    if dtype != np.dtype(np.float32):
        values = values.astype(np.float32)
    if stored.full != 1:
        values = (values - np.float32(stored.zero)) * np.float32(1 / stored.full)
    return values.view(np.complex64)
