"""Keeps the lines of the audit in a file of the home: whole ones, whoever writes and whatever is killed."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.base.errors import StorageError
from tasks.base.file_locks import FOREVER, lock
from tasks.base.workspace import home, storage_errors

LARGEST_BYTES = 8_000_000
"""About 16,000 acts; a larger file is put aside, in place of what was put aside before."""

Line = dict[str, Any]


def audit_path() -> Path:
    """Return the file of the lines; those before are in the one beside it, with .old in its name."""
    return home() / "audit.jsonl"


def old_path() -> Path:
    """Return the file of the lines that were put aside."""
    return home() / "audit.old.jsonl"


def append(line: Mapping[str, Any]) -> None:
    """Add a line, by one write under the lock of the file; nothing of it is there where the disk is full.

    Raises:
        StorageError: the file cannot be written.
    """
    data = json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
    try:
        with _locked(audit_path()) as fd:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data  # after what a dying machine left of a line
            if os.write(fd, data) < len(data):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as exc:
        raise StorageError(f"{audit_path()} could not be written: {exc.strerror}") from exc


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Yield the file, open for appending, by this process alone, and not too large."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            lock(fd, wait_s=FOREVER)
            if not _is_at(fd, path):
                continue  # put aside by another one meanwhile
            if os.fstat(fd).st_size < LARGEST_BYTES:
                yield fd
                return
            path.replace(old_path())
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def read_lines() -> tuple[list[Line], int]:
    """Return the lines, oldest first, and how many could not be read.

    Raises:
        StorageError: the file may not be read.
    """
    lines: list[Line] = []
    n_torn = 0
    for path in (old_path(), audit_path()):
        with storage_errors(path):
            content = path.read_bytes() if path.exists() else b""
        for raw in content.splitlines():
            try:
                found = json.loads(raw)
                lines.append({**found, "at": str(found["at"]), "id": str(found["id"])})
            except (ValueError, TypeError, KeyError):
                n_torn += bool(raw)
    return lines, n_torn
