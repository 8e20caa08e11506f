"""Where a run keeps its files: a stage is written under a temporary name and renamed when it is whole."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tasks.errors import ConfigError, StorageError

MADE_WITH = "made_with.json"
"""The file of a stage that says what it was made with; the last one written, so a stage that has it is whole."""


def home() -> Path:
    """Return the folder that holds all state: TRAINYARD_HOME, else `.yard` in the current folder."""
    return Path(os.environ.get("TRAINYARD_HOME", ".yard")).absolute()


def run_dir(run_id: str) -> Path:
    """Return (and make) the folder of one run."""
    path = home() / "runs" / run_id
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def held(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `path`, a lock file, for the block; the kernel lets go of it when the process is gone, however.

    Args:
        path: made when missing.
        what: is held, for the message.
        wait: until whoever holds it lets go, instead of raising.

    Raises:
        ConfigError: another living process holds it.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as exc:
            file.seek(0)
            raise ConfigError(
                f"{what} is held by process {file.read().strip() or 'unknown'}, which still runs"
            ) from exc
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds `path`, a lock file, until it and its copies are closed; None where it is held.

    Raises:
        StorageError: the file cannot be made.
    """
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def cache_dir(name: str) -> Path:
    """Return (and make) a folder for what can be computed again."""
    path = home() / "cache" / name
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def allowed_path(path: Path) -> Path:
    """Return `path` resolved, if it lies under one of TRAINYARD_ALLOWED_ROOTS (separated by ':'; unset: any).

    Raises:
        ConfigError: the path, symbolic links followed, leads outside.
    """
    resolved = path.expanduser().resolve()
    roots = os.environ.get("TRAINYARD_ALLOWED_ROOTS")
    if roots:
        allowed = [*(Path(r).resolve() for r in roots.split(":") if r), home().resolve()]
        if not any(resolved.is_relative_to(root) for root in allowed):
            raise ConfigError(f"{path} leads outside the allowed roots {roots} (TRAINYARD_ALLOWED_ROOTS)")
    return resolved


def allowed_link(path: Path) -> Path:
    """Return `path` as it is, if it is no link or one that stays within the allowed roots.

    Raises:
        ConfigError: it leads outside.
    """
    if path.is_symlink():
        allowed_path(path)
    return path


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a StorageError that names the place and the way out."""
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(f"disk full while writing {exc.filename or path}: free room there") from exc
        if exc.errno == errno.EFBIG:
            raise StorageError(
                f"file too large while writing {exc.filename or path}: raise the limit (ulimit -f)"
            ) from exc
        if exc.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise StorageError(f"cannot write {exc.filename or path}: {exc.strerror}") from exc
        if exc.errno in {errno.ENOTDIR, errno.EEXIST}:
            raise StorageError(f"found a file where a folder is needed: {exc.filename or path}") from exc
        raise


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a fresh folder that becomes `target` when the block ends well and is removed when it does not.

    A left-over of a killed earlier attempt is removed first; an existing `target` is replaced.
    """
    tmp = target.with_name(target.name + ".tmp")
    with storage_errors(tmp):
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
        try:
            yield tmp
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise
        if target.exists():
            shutil.rmtree(target)
        tmp.rename(target)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, also after a power cut."""
    with replacing(path) as file:
        file.write(data)


def open_table(path: Path) -> TextIO:
    """Open a new CSV file for writing; names of files that are no UTF-8 come back as they are."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends well, whole and on the disk."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(tmp, 0o644)
            os.replace(tmp, path)
        except BaseException:
            Path(tmp).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def written_at(path: Path) -> str:
    """Return when a file was written, as people here read it."""
    return f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}"


def remember(folder: Path, made_with: dict[str, Any]) -> None:
    """Write into the folder of a stage what it was made with, so that later stages can tell."""
    write_json(folder / MADE_WITH, made_with)


def recall(folder: Path) -> dict[str, Any]:
    """Return what a folder was made with; empty for one that was made by hand."""
    path = folder / MADE_WITH
    return dict(json.loads(path.read_text())) if path.is_file() else {}
