"""The folders and files of a run, written under temporary names and renamed once they are whole."""

import errno
import io
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from tasks.base.errors import ConfigError, DatasetError, StorageError, TrainyardError
from tasks.base.outside import read_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MADE_WITH = "made_with.json"
"""The file of a stage that says what it was made with; the last one written, so a stage that has it is whole."""


def home() -> Path:
    """Return the folder that holds all state: TRAINYARD_HOME, else `.yard` in the current folder."""
    return Path(os.environ.get("TRAINYARD_HOME", ".yard")).absolute()


def run_path(run: object) -> Path | None:
    """Return where the folder of a run is, None for a name that could lead out of the folder of all runs."""
    return home() / "runs" / run if isinstance(run, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", run) else None


def run_dir(run_id: str) -> Path:
    """Return (and make) the folder of one run."""
    path = home() / "runs" / run_id
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


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
    roots = allowed_roots()
    if roots and not any(resolved.is_relative_to(root.resolve()) for root in (*roots, home())):
        named = ":".join(map(str, roots))
        raise ConfigError(f"{path} leads outside the allowed roots {named} (TRAINYARD_ALLOWED_ROOTS)")
    return resolved


def allowed_roots() -> list[Path]:
    """Return the folders of TRAINYARD_ALLOWED_ROOTS; none, as where it is unset or empty: runs get at any path."""
    words = os.environ.get("TRAINYARD_ALLOWED_ROOTS", "").split(":")
    return [Path(word.strip()) for word in words if word.strip()]


def allowed_link(path: Path) -> Path:
    """Return `path` as it is, if it is no link or one that stays within the allowed roots.

    Raises:
        ConfigError: it leads outside.
    """
    if path.is_symlink():
        allowed_path(path)
    return path


_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What libraries that write by themselves raise under other names; no other error of theirs may hide behind these."""

_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a StorageError that names the place and the way out.

    Libraries give the system's error other words: it is looked for among what led to theirs.
    """
    try:
        yield
    except Exception as exc:  # raised again, unless the disk is behind it
        sentence = None if isinstance(exc, TrainyardError) else _sentence(exc, path)
        if sentence is None:
            raise
        raise StorageError(sentence) from exc


def _sentence(exc: Exception, path: Path) -> str | None:
    """Return what the disk refused, None where it is not the disk."""
    blamed: BaseException = exc
    behind: BaseException | None = exc
    while behind is not None and _number(blamed) not in _LOST:
        blamed = behind if _number(behind) in _LOST else blamed
        behind = behind.__cause__ or behind.__context__
    number, where, linked = _number(blamed), _named(blamed) or path, getattr(blamed, "filename2", None)
    match number:
        case errno.ENOSPC:
            return f"disk full while writing {where}: free room there"
        case errno.EDQUOT:
            return f"disk quota used up while writing {where}: free room there, or ask for a larger quota"
        case errno.EFBIG:
            return f"file too large while writing {where}: raise the limit (ulimit -f)"
        case errno.EIO:
            doing = "while writing" if _is_written(where, path) else "at"
            return f"the disk failed {doing} {where} (input/output error): have it looked at"
        case errno.EACCES | errno.EROFS | errno.EPERM:
            return f"cannot {'write' if _is_written(where, path) else 'open'} {where}: {os.strerror(number)}"
        case errno.ENOTDIR | errno.EEXIST if number == errno.ENOTDIR or not (linked or where.is_dir()):
            return f"found a file where a folder is needed: {where}"
    return None


def _named(exc: BaseException) -> Path | None:
    """Return the path an error names; of a copy and a link the second one is the one that is written."""
    named = getattr(exc, "filename2", None) or getattr(exc, "filename", None)
    return Path(os.fsdecode(named)) if isinstance(named, str | bytes | os.PathLike) else None


def _is_written(where: Path, path: Path) -> bool:
    """Return whether a block that writes `path` writes `where`: a part of it, a folder above, or a stand-in beside."""
    where, path = Path(os.path.realpath(where)), Path(os.path.realpath(path))
    beside = where.parent == path.parent and (path.name in where.name or where.name in path.name)
    return beside or where.is_relative_to(path) or path.is_relative_to(where)


def _number(exc: BaseException) -> int | None:
    """Return the system's number of an error, also where a library has it as text or under its own number."""
    if isinstance(exc, shutil.Error):  # of a whole tree: a list of texts
        found = re.search(r"\[Errno (\d+)\]", str(exc))
        return int(found[1]) if found else None
    if isinstance(exc, sqlite3.Error):
        return _SQLITE.get(getattr(exc, "sqlite_errorcode", 0) & 0xFF)
    return exc.errno if isinstance(exc, OSError) else None


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


def copy_whole(source: str | Path, target: str | Path) -> None:
    """Copy a file so that a reader sees the old or the new content."""
    with replacing(Path(target)) as file, open(source, "rb") as content:
        shutil.copyfileobj(content, file, 1 << 20)


def open_table(path: Path) -> TextIO:
    """Open a new CSV file for writing; names of files that are no UTF-8 come back as they are."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


class _Kept(io.FileIO):
    """A file that remembers what the disk refused: code that is handed it may say something else, or nothing."""

    error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            self.error = self.error or exc
            raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends well, whole and on the disk."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        raw = _Kept(fd, "wb")
        try:
            try:
                with io.BufferedWriter(raw) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except Exception as exc:  # raised again, under its own name
                if raw.error in (None, exc):
                    raise
                raise raw.error from exc
            if raw.error is not None:
                raise raw.error
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


def write_step_info(folder: Path, made_with: dict[str, Any]) -> None:
    """Write into the folder of a stage what it was made with, so that later stages can tell."""
    write_json(folder / MADE_WITH, made_with)


def read_step_info(folder: Path) -> dict[str, Any]:
    """Return what a folder was made with; empty for one that was made by hand.

    Raises:
        DatasetError: its file says nothing of that kind.
    """
    path = folder / MADE_WITH
    made_with = read_json(path, DatasetError) if path.exists() else {}
    if not isinstance(made_with, dict):
        raise DatasetError(f"found a {type(made_with).__name__}, need what the folder was made with: {path}")
    return made_with
