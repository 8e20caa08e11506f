"""Locks on files that the kernel keeps, and drops with the last process that has the file open."""

import fcntl
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.base.errors import ConfigError
from tasks.base.workspace import storage_errors

FOREVER = math.inf
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.05
_ASKING_S = 0.1  # whoever asks whether a lock is held has it for a moment


def lock(fd: int, *, shared: bool = False, wait_s: float = 0.0) -> bool:
    """Take the lock of an open file, or change it; return whether it could be had.

    It belongs to the open file, so every copy of the descriptor holds it, those of child processes, too. Where a lock
    was held already and another kind cannot be had, the first one may be lost.

    Args:
        fd: of the open file.
        shared: beside others who share it; off: alone.
        wait_s: seconds to wait for those who have it; FOREVER: until they let go.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait_s == FOREVER:
        fcntl.flock(fd, how)
        return True
    deadline, pause = time.monotonic() + wait_s, _FIRST_PAUSE_S
    while not _try(fd, how):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, random.uniform(0.5, 1.0) * pause))  # at random: others who wait look at other times
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return True


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds `path`, a lock file, until it and its copies are closed; None where it is held.

    Raises:
        StorageError: the file cannot be made.
    """
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if lock(fd) and _is_there(fd, path):
        return fd
    os.close(fd)
    return None


def _is_there(fd: int, path: Path) -> bool:
    """Return whether an open file is the one at `path`: its folder may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Return whether a process holds `path`, a lock file; asking takes it for less time than `file_lock` waits.

    Raises:
        StorageError: the file cannot be read.
    """
    with storage_errors(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
    return is_taken(fd)


def is_taken(fd: int) -> bool:
    """Return whether anybody holds the lock of an open file, and close it."""
    try:
        return not lock(fd, shared=True)
    finally:
        os.close(fd)


@contextmanager
def file_lock(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `path`, a lock file, for the block.

    Args:
        path: made when missing; says the process that holds it.
        what: is held, for the message.
        wait: until whoever holds it lets go, instead of raising.

    Raises:
        ConfigError: another living process holds it.
    """
    with ExitStack() as stack:
        while True:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("a+"))
            if not lock(file.fileno(), wait_s=FOREVER if wait else _ASKING_S):
                file.seek(0)
                raise ConfigError(f"{what} is held by process {file.read().strip() or 'unknown'}, which still runs")
            if _is_there(file.fileno(), path):
                break
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
