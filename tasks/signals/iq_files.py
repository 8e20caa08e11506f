"""Finds the I/Q recordings of a folder, and tells how their samples are stored."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from tasks.base.errors import DatasetError
from tasks.base.outside import check_file, open_file, read_json, walk
from tasks.base.workspace import allowed_link
from tasks.signals.iq_layout import Layout, raw_layout
from tasks.signals.npy_files import is_npy, read_npy
from tasks.signals.params import Datatype
from tasks.signals.wav_files import is_wav, read_wav

META, DATA = ".sigmf-meta", ".sigmf-data"
_FLOAT_SUFFIXES = (".iq", ".dat", ".bin", ".raw", ".cf32", ".fc32", ".cfile", ".c64", ".complex", DATA)
SUFFIX_DATATYPES: Mapping[str, Datatype] = {
    **dict.fromkeys(_FLOAT_SUFFIXES, "cf32_le"),
    **dict.fromkeys((".cs16", ".ci16", ".sc16"), "ci16_le"),
    **dict.fromkeys((".cs8", ".ci8", ".sc8"), "ci8"),
    ".cu8": "cu8",
}
"""Suffixes of files of samples alone, and what they hold where nothing else says it."""


HEADED_SUFFIXES = (".wav", ".wave", ".rf64", ".bw64", ".npy")
"""Suffixes of files that say by themselves how their samples are stored."""

SAMPLE_SUFFIXES = frozenset({*SUFFIX_DATATYPES, *HEADED_SUFFIXES})
_SNIFFED_BYTES = 12


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

    found: list[Path] = []
    for root, _, names in walk(source):
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in SAMPLE_SUFFIXES:
                found.append(allowed_link(path))
    if not found:
        have = ", ".join(sorted(SAMPLE_SUFFIXES))
        raise DatasetError(f"found no recording, need files that end with one of {have}: {source}")
    return sorted(found)


def read_layout(path: Path) -> Layout:
    """Return how the samples of a recording are stored.

    As the header of a WAV file or an array of numpy's says, whatever the file is called; else as its SigMF metadata do;
    else as its suffix does.

    Raises:
        DatasetError: header or metadata cannot be read, or describe what is no single stream of complex samples.
    """
    suffix = path.suffix.lower()
    with open_file(path, DatasetError) as file:
        head = file.read(_SNIFFED_BYTES)
    if suffix == ".npy" or is_npy(head):
        return read_npy(path)
    if suffix in HEADED_SUFFIXES or is_wav(head):
        return read_wav(path)
    meta = path.with_suffix(META)
    if meta.exists():
        content = _read_meta(meta)
        # A name of its own: the metadata of b.iq may lie beside an a.iq of the same stem.
        if path.suffix == DATA or content["global"].get("core:dataset") == path.name:
            return _layout_of(content, meta)
    return raw_layout(SUFFIX_DATATYPES.get(suffix, "cf32_le"))


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
    listed = content.get("captures")
    captures = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    if told.get("core:trailing_bytes") or any(capture.get("core:header_bytes") for capture in captures):
        raise DatasetError(f"found bytes that are no samples (header or trailer), need a file of samples alone: {meta}")
    said = _said_of_first(captures)
    if rate is None:
        return replace(raw_layout(datatype), **said)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise DatasetError(f"found core:sample_rate {rate!r}, need a number above 0: {meta}")
    return replace(raw_layout(datatype, float(rate)), **said)


def _said_of_first(captures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return frequency and time of the first stretch; what is no number or no time is as good as not said."""
    first = captures[0] if captures else {}
    said: dict[str, Any] = {}
    frequency = first.get("core:frequency")
    if isinstance(frequency, int | float) and not isinstance(frequency, bool) and math.isfinite(frequency):
        said["center_hz"] = float(frequency)
    with suppress(ValueError):
        start = datetime.fromisoformat(str(first.get("core:datetime")))
        said["start"] = start.replace(tzinfo=start.tzinfo or UTC).astimezone(UTC)
    return said
