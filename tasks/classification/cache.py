"""Keeps images shrunk to one size, so that only the first epoch of the first run pays for decoding them."""

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.classification.decoding import MAX_PIXELS, resize_rgb
from tasks.classification.files import in_threads
from tasks.classification.images import decode_rgb, read_bytes
from tasks.errors import DatasetError
from tasks.workspace import storage_errors

# Counts up when decoding or shrinking changes: older entries are then no longer found.
VERSION = 1
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Where the shrunk copy of one image lies."""

    path: Path
    digest: str  # blake2b-16 of the file's content, as in files.csv
    hit: bool  # it was there already


class ResizeCache:
    """Shrunk copies of images, found by the content of the file and not by its name or date.

    An entry is the (size, size, 3) uint8 RGB pixels as they lie in memory, then a checksum of them. Several
    processes may fill the same folder: each writes beside the entry and renames.
    """

    def __init__(self, folder: Path, size: int, max_pixels: int = MAX_PIXELS) -> None:
        self.folder = folder / f"resize-v{VERSION}-{size}"
        self.size = size
        self.max_pixels = max_pixels

    def prepare(self, paths: Sequence[Path], n_workers: int = 0) -> Iterator[tuple[int, CacheEntry]]:
        """Yield (index, entry) for each path, in order, after making sure that the entry is there and whole.

        Every file is read to know its content; only one without a sound entry is decoded.

        Args:
            n_workers: threads; 0 for one per core.

        Raises:
            ImageError: an image cannot be used.
            StorageError: the cache cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        yield from enumerate(in_threads(self._prepare, paths, n_workers))

    def _prepare(self, path: Path) -> CacheEntry:
        data = read_bytes(path, self.max_pixels)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        entry = self.folder / digest[:2] / f"{digest}.rgb"
        if self._is_whole(entry, digest):
            return CacheEntry(entry, digest, hit=True)
        rgb = decode_rgb(data, path, self.max_pixels, min_side=self.size)
        pixels = resize_rgb(rgb, self.size).tobytes()
        with storage_errors(entry):
            _replace(entry, pixels + _checksum(pixels, digest))
        return CacheEntry(entry, digest, hit=False)

    def _is_whole(self, entry: Path, digest: str) -> bool:
        try:
            data = entry.read_bytes()
        except FileNotFoundError:
            return False
        n = self.size * self.size * 3
        return len(data) == n + _CHECKSUM_BYTES and data[n:] == _checksum(memoryview(data)[:n], digest)


def _checksum(pixels: bytes | memoryview, digest: str) -> bytes:
    # The digest as key, so that an entry under another's name counts as damaged.
    return hashlib.blake2b(pixels, digest_size=_CHECKSUM_BYTES, key=digest.encode()).digest()


def _replace(path: Path, data: bytes) -> None:
    """Write without waiting for the disk: after a power cut the checksum tells, and it is made again."""
    path.parent.mkdir(exist_ok=True)
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        tmp.write_bytes(data)
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def read_entry(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the (size, size, 3) RGB pixels of an entry that `prepare` has yielded.

    Raises:
        DatasetError: it is gone or cut short since.
    """
    n = size * size * 3
    try:
        pixels = np.fromfile(path, np.uint8, count=n)
    except OSError as exc:
        raise DatasetError(f"cannot read the cached image, {exc.strerror}: {path}") from exc
    if len(pixels) != n:
        raise DatasetError(f"cached image has {len(pixels)} bytes, need {n}: {path}")
    return pixels.reshape(size, size, 3)
