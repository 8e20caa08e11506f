"""The images of a data set as a model sees them, decoded at first use and then kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tasks.base.errors import DatasetError
from tasks.classification.data.cache import ResizeCache, Rgb
from tasks.classification.data.keeping import Keep
from tasks.images.files import n_cores
from tasks.images.images import content_digest, read_bytes, shrunk


class SubsetImages:
    """The images of one part, by their number; may be asked from several threads.

    Wherever they are kept, the pixels are the same. What a file held when it was first looked at holds for all of the
    training: one that changes meanwhile is an error, not other pixels.

    Args:
        paths: of the files.
        digests: of each file's content, where it is known already.
        cache: where shrunk images lie on disk; gives their size.
        keep: where they are kept once they are decoded.
    """

    def __init__(self, paths: Sequence[Path], digests: Sequence[str | None], cache: ResizeCache, keep: Keep) -> None:
        self._paths = list(paths)
        self._digests = list(digests)
        self._cache, self._keep = cache, keep
        n_held = len(self._paths) if keep == "memory" else 0
        # Memory is taken as rows are filled, not here.
        self._held = np.empty((n_held, cache.size, cache.size, 3), np.uint8)
        self._is_held = np.zeros(n_held, bool)

    @property
    def digests_known(self) -> bool:
        """Return whether `digests` reads nothing more."""
        return None not in self._digests

    def read(self, index: int) -> Rgb:
        """Return an image as (S, S, 3) uint8 RGB, not to be written into.

        Raises:
            ImageError: it cannot be used.
            DatasetError: the file holds something else than before.
            StorageError: the cache cannot be read or written.
        """
        if self._keep != "memory":
            return self._fetch(index)
        if not self._is_held[index]:
            self._held[index] = self._fetch(index)
            self._is_held[index] = True
        return self._held[index]

    def _fetch(self, index: int) -> Rgb:
        known = self._digests[index]
        if known is not None and (entry := self._entry(known)) is not None:
            return entry
        path = self._paths[index]
        data = read_bytes(path)
        digest = content_digest(data)
        if known is None:
            self._digests[index] = digest
            if (entry := self._entry(digest)) is not None:
                return entry
        elif digest != known:
            raise DatasetError(f"the file has changed since the data was prepared or first read: {path}")
        pixels = shrunk(data, path, self._cache.size)
        if self._keep == "disk":
            self._cache.store(digest, pixels)
        return pixels

    def _entry(self, digest: str) -> Rgb | None:
        return self._cache.load(digest) if self._keep == "disk" else None

    def unknown(self) -> list[int]:
        """Return the numbers of the files whose content nobody has looked at."""
        return [index for index, digest in enumerate(self._digests) if digest is None]

    def look_at(self, index: int) -> None:
        """Learn the digest of a file.

        Raises:
            ImageError: it cannot be read.
        """
        self._digests[index] = content_digest(read_bytes(self._paths[index]))

    def digests(self) -> list[str]:
        """Return the digest of every file's content, after a look at those that nobody has read so far."""
        if unknown := self.unknown():
            with ThreadPoolExecutor(n_cores()) as pool:
                for _ in pool.map(self.look_at, unknown):
                    pass
        return [digest for digest in self._digests if digest is not None]
