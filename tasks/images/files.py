"""Finds the images of a folder, links them into another, and works on many with all cores."""

import errno
import itertools
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import cv2

from gpu_pools.stopping import look
from tasks.base.errors import DatasetError
from tasks.base.outside import walk
from tasks.base.workspace import allowed_link
from tasks.images.images import IMAGE_SUFFIXES

T = TypeVar("T")
R = TypeVar("R")

# Another device, a file system without hard links, somebody else's file, too many links: all of them can be
# copied.
_COPY_INSTEAD = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
}


def find_images(folder: Path) -> tuple[list[Path], int]:
    """Return the images below `folder` by their suffix, sorted, and how many other files were left out.

    Names that start with a dot are passed over. A symbolic link to a file counts as that file, as long
    as it leads to an allowed root; one to a folder is not followed (it could lead in circles) and counts as left out.

    Raises:
        DatasetError: a folder cannot be read.
        ConfigError: a link leads outside the allowed roots.
    """

    images: list[Path] = []
    n_other = 0
    for root, folders, names in walk(folder):
        n_other += sum(os.path.islink(os.path.join(root, name)) for name in folders)
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                images.append(allowed_link(Path(root, name)))
            else:
                n_other += 1
    return sorted(images), n_other


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in `folder`, sorted, hidden ones left out.

    Raises:
        DatasetError: it does not exist, is not a folder or cannot be read.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DatasetError(f"found {found}, need a folder of images: {folder}")
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as exc:
        raise DatasetError(f"cannot read the folder {folder}: {exc.strerror}") from exc


def link_or_copy(source: Path, target: Path) -> bool:
    """Make `target` a hard link to `source`, or a copy where that is not possible; say whether it is a link.

    A link shares its content with the original, so nothing here ever writes into a file that may be one.
    """
    original = source.resolve()  # Linux would link the symbolic link itself
    try:
        os.link(original, target)
    except OSError as exc:
        if exc.errno not in _COPY_INSTEAD:
            raise
        shutil.copyfile(original, target)
        return False
    return True


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[T], R], items: Iterable[T], n_workers: int = 0) -> Iterator[R]:
    """Yield `function(item)` for every item, in order, computed by threads a little ahead of the reader.

    Threads are enough: OpenCV, Pillow, hashing and NumPy's large operations let go of the interpreter lock.

    Args:
        n_workers: how many threads; 0 for one per core.

    Raises:
        Interrupted: a signal has come.
    """
    n_workers = n_workers or n_cores()
    pool = ThreadPoolExecutor(n_workers)
    waiting: deque[Future[R]] = deque()
    rest = iter(items)
    with one_cv2_thread():
        try:
            waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 4 * n_workers))
            while waiting:
                result = waiting.popleft().result()
                look()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_cv2_thread() -> Iterator[None]:
    """Let OpenCV work on each image with one thread; threads inside of threads only get in each other's way."""
    n_before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(n_before)
