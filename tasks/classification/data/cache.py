"""Keeps shrunk images on disk, so that later runs need not decode the files again."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.base.workspace import storage_errors

# Counts up when decoding or shrinking changes: older entries are then no longer found.
VERSION = 1
_CHECKSUM_BYTES = 16

Rgb = NDArray[np.uint8]


class ResizeCache:
    """Shrunk copies of images, found by the content of the file and not by its name or date.

    An entry is the (size, size, 3) uint8 RGB pixels as they lie in memory, then a checksum of them. Several
    threads and processes may fill the same folder: each writes beside the entry and renames.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder / f"resize-v{VERSION}-{size}"
        self.size = size
        self._sound: set[str] = set()  # digests whose entry this process has checked or written

    def entry(self, digest: str) -> Path:
        """Return where the shrunk copy of an image of that content lies, if it is there."""
        return self.folder / digest[:2] / f"{digest}.rgb"

    def load(self, digest: str) -> Rgb | None:
        """Return the pixels of an entry, (size, size, 3), or None where there is no sound one.

        Raises:
            StorageError: it cannot be read.
        """
        path = self.entry(digest)
        with storage_errors(path):
            try:
                data = np.fromfile(path, np.uint8)
            except FileNotFoundError:
                return None
        n = self.size * self.size * 3
        if len(data) != n + _CHECKSUM_BYTES:
            return None
        if digest not in self._sound:  # once: entries are replaced, never written into
            if data[n:].tobytes() != _checksum(data[:n], digest):
                return None
            self._sound.add(digest)
            with suppress(PermissionError):  # another user's entry
                os.utime(path)  # housekeeping removes what was not used for longest
        return data[:n].reshape(self.size, self.size, 3)

    def store(self, digest: str, pixels: Rgb) -> None:
        """Keep the pixels, (size, size, 3), of an image of that content.

        Raises:
            StorageError: the cache cannot be written.
        """
        path = self.entry(digest)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, pixels.tobytes() + _checksum(pixels, digest))
        self._sound.add(digest)

    def remove(self, digest: str) -> None:
        """Forget an entry."""
        self._sound.discard(digest)
        self.entry(digest).unlink(missing_ok=True)


def _checksum(pixels: Rgb, digest: str) -> bytes:
    # The digest as key, so that an entry under another's name counts as damaged.
    return hashlib.blake2b(pixels.data, digest_size=_CHECKSUM_BYTES, key=digest.encode()).digest()


def _replace(path: Path, data: bytes) -> None:
    """Write without waiting for the disk: after a power cut the checksum tells, and it is made again."""
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        tmp.write_bytes(data)
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
