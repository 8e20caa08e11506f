"""Removes files, or only counts them, and tells how many bytes the disk gets back."""

import os
import stat
from collections import Counter
from pathlib import Path

_BLOCK = 512  # bytes; the unit of st_blocks, whatever the file system's own


class Remover:
    """Removes files and folders, one after the other.

    What is counted is what `du` loses: the blocks of a file, not its length, and only with its last link. A file that
    has a link elsewhere frees nothing.

    Args:
        dry_run: count alone; of a file with several links, those that were counted before count as removed.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.faults: list[str] = []
        self.gone: set[Path] = set()
        self._seen: Counter[tuple[int, int]] = Counter()

    def remove(self, path: Path) -> int:
        """Remove a file, a link, or a folder with all below it; return the bytes that this frees.

        What cannot be removed is a fault, and the rest goes all the same. A link is removed, not what it leads to.
        """
        self.gone.add(path)
        return self._remove(path)

    def _remove(self, path: Path) -> int:
        try:
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                return self._unlink(path, found)
            freed = sum(self._remove(Path(entry.path)) for entry in os.scandir(path))
            if not self.dry_run:
                path.rmdir()
            return freed + found.st_blocks * _BLOCK
        except FileNotFoundError:  # somebody was faster
            return 0
        except OSError as exc:
            self.faults.append(f"cannot remove {path}: {exc.strerror or exc}")
            return 0

    def _unlink(self, path: Path, found: os.stat_result) -> int:
        if self.dry_run:
            key = (found.st_dev, found.st_ino)
            self._seen[key] += 1
            last = self._seen[key] == found.st_nlink
        else:
            path.unlink()
            last = found.st_nlink == 1
        return found.st_blocks * _BLOCK if last else 0


def disk_usage(path: Path) -> int:
    """Return the bytes that a tree takes as `du` counts them: blocks, each file once, links not followed."""
    seen: set[tuple[int, int]] = set()
    total = 0
    todo = [path]
    while todo:
        place = todo.pop()
        try:
            found = place.lstat()
            if stat.S_ISDIR(found.st_mode):
                todo += [Path(entry.path) for entry in os.scandir(place)]
        except FileNotFoundError:
            continue
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * _BLOCK
    return total
