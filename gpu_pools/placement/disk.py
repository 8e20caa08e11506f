"""How much of the disk is free, how much has to stay free, and how sizes are written."""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import home

MIN_FREE = "TRAINYARD_MIN_FREE"
"""Names the free space below which nothing new starts: 10GB, 5%, or 0 for none; unset: the lesser of these two."""

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SHARE, _BYTES = 0.05, 10 * 10**9


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of the home: bytes that are free, and that have to be, for a run to start."""

    path: str
    free: int
    least: int

    @property
    def low(self) -> bool:
        """Whether nothing new may start."""
        return self.free < self.least

    def sentence(self) -> str:
        """Return why a run waits, with both numbers."""
        return (
            f"the disk is full: {size_text(self.free)} free at {self.path}, {size_text(self.least)} needed for a run "
            f"to start ({MIN_FREE}): `yard submit housekeeping`, or free room there"
        )


def parse_size(text: str) -> int:
    """Return bytes for `"500MB"`, `"50GB"` or `"2TB"`.

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(kB|MB|GB|TB)", text.strip())
    if not found:
        raise ConfigError(f"found size {text!r}, need a number with kB, MB, GB or TB, such as 50GB")
    return int(float(found[1]) * _UNITS[found[2]])


def size_text(n_bytes: float) -> str:
    """Return bytes as people read them: 1.3 GB."""
    for unit, size in reversed(_UNITS.items()):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def least_free(total: int) -> int:
    """Return how many bytes of a disk have to be free for a run to start.

    Args:
        total: bytes of the disk.

    Raises:
        ConfigError: TRAINYARD_MIN_FREE is neither a size nor a share.
    """
    text = os.environ.get(MIN_FREE, "").strip()
    if not text:
        return min(int(_SHARE * total), _BYTES)
    if text == "0":
        return 0
    share = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]+)?)\s*%", text)
    try:
        return int(float(share[1]) / 100 * total) if share else parse_size(text)
    except ConfigError as exc:
        raise ConfigError(f"found {MIN_FREE}={text!r}, need a size such as 10GB, a share such as 5%, or 0") from exc


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a run will take on the disk, and for what: 3,000 altered copies."""

    bytes: int
    what: str


def together(needs: Iterable[Need]) -> Need:
    """Return what several parts of a run take, those that take nothing left out."""
    taken = [need for need in needs if need.bytes]
    return Need(sum(need.bytes for need in taken), " and ".join(need.what for need in taken))


def check_fits(need: Need, folder: Path) -> str:
    """Return what a run will need and what is free, in a sentence.

    Args:
        need: of the run; an estimate.
        folder: it is written to, which may not be there yet.

    Raises:
        StorageError: it does not fit, with both numbers.
    """
    disk = read_disk(folder)
    room = disk.free - disk.least
    if need.bytes > max(0, room):
        found = f"found {size_text(disk.free)} free at {folder}, of which {size_text(disk.least)} have to stay free"
        raise StorageError(f"need about {size_text(need.bytes)} of disk for {need.what}, {found}: free room there")
    if not need.bytes:
        return f"needs next to no disk; {size_text(disk.free)} are free at {folder}"
    return f"needs about {size_text(need.bytes)} of disk for {need.what}; {size_text(disk.free)} are free at {folder}"


def nearest(folder: Path) -> Path:
    """Return a folder if it is there, else the next one above it that is."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def read_disk(path: Path | None = None) -> Disk:
    """Return the disk of a folder that is there, else of the next one above it; without a path, the home's.

    Raises:
        ConfigError: TRAINYARD_MIN_FREE is neither a size nor a share.
    """
    wanted = path or home()
    usage = shutil.disk_usage(nearest(wanted))
    return Disk(str(wanted), usage.free, least_free(usage.total))
