"""The files of a slot: its locks, and a text that says who holds it.

What counts is the lock. The text is never trusted: every user of the host may write it, and it may be torn or old.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpu_pools.placement.queues import Kind
from tasks.base.errors import StorageError
from tasks.base.file_locks import is_taken

# Who holds a slot is written by the worker, how far the run is by the run. A half each, so that neither has to read
# before it writes, and none undoes what the other wrote in between.
_HALF = 2048
_TORN = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
_LAST_SECOND = 1e11  # `time.localtime` fails beyond it
UNKNOWN = "?"
SHARED_DIRS = (Path("/run/lock/trainyard"), Path("/tmp/trainyard-locks"))


@dataclass(frozen=True, slots=True)
class SlotProgress:
    """How far a run is."""

    epoch: int
    n_epochs: int
    remaining_s: float | None  # seconds, None: not known
    updated: float  # Unix seconds
    unit: str = "epoch"  # what is counted


@dataclass(frozen=True, slots=True)
class Holder:
    """A run that holds a slot; where its record cannot be read, texts are "?" and numbers 0."""

    run_id: str
    run_name: str
    owner: str  # user@host
    device: str  # cuda:0, cpu
    uuid: str  # of the GPU; "cpu"
    kind: Kind
    number: int  # of the slot, from 0
    pid: int  # of the run's process; until it is there, of who starts it
    since: float  # Unix seconds
    progress: SlotProgress | None
    memory_mib: int | None = None  # of the GPU that the run is expected to take; None: not known
    memory_source: str = ""  # how that is known
    ends_by: float | None = None  # its time limit ends it then, Unix seconds; None: it has none


def lock_dir() -> Path:
    """Return (and make, open to all users) the folder of the locks: TRAINYARD_LOCK_DIR, else one for the whole host.

    Raises:
        StorageError: it cannot be made or is not safe to share.
    """
    chosen = os.environ.get("TRAINYARD_LOCK_DIR")
    return safe_dir(_made(Path(chosen).absolute())) if chosen else shared_dir(SHARED_DIRS)


def safe_dir(path: Path) -> Path:
    """Return a folder of locks, if nobody but this user and root can exchange the locks in it.

    Raises:
        StorageError: it is a link, belongs to another user, or others may write in it without the sticky bit.
    """
    found = os.lstat(path)
    faults = {
        "is no folder": not stat.S_ISDIR(found.st_mode),
        f"belongs to user {found.st_uid}": found.st_uid not in {0, os.geteuid()},
        f"has mode {stat.filemode(found.st_mode)}": found.st_mode & 0o022 != 0 and not found.st_mode & 0o1000,
    }
    if fault := next((fault for fault, is_so in faults.items() if is_so), ""):
        raise StorageError(
            f"found that {path} {fault}, need a folder of root or of this user, in which nobody else can exchange the "
            f"locks: `install -d -m 1777 -o root {path}` as root, or set TRAINYARD_LOCK_DIR to another one"
        )
    return path


def shared_dir(places: Sequence[Path]) -> Path:
    """Return (and make) the first of `places` that is there, or that every user could make; else the last.

    Raises:
        StorageError: it is a link, or of another user, who could exchange the locks in it; or not open to all.
    """
    # For every user: if only root made the shared folder, users would have two sets of locks.
    path = next((place for place in places if place.is_dir() or _open_to_all(place.parent)), places[-1])
    mode = os.lstat(safe_dir(_made(path))).st_mode
    if mode & 0o1777 != 0o1777:
        raise StorageError(
            f"found {path} with mode {stat.filemode(mode)}, need a folder with mode drwxrwxrwt: "
            f"`chmod 1777 {path}`, or set TRAINYARD_LOCK_DIR to another one"
        )
    return path


@contextmanager
def lock_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a StorageError that names the place."""
    try:
        yield
    except OSError as exc:
        raise StorageError(f"cannot use the locks at {exc.filename or path}: {exc.strerror}") from exc


def _open_to_all(folder: Path) -> bool:
    return folder.is_dir() and folder.stat().st_mode & 0o002 != 0


def _made(path: Path) -> Path:
    if path.is_dir():
        return path
    with lock_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that nobody meets it with the mode that this user's umask gives.
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        made.chmod(0o1777)
        try:
            made.rename(path)
        except OSError:
            made.rmdir()
            if not path.is_dir():  # else another one was faster
                raise
    return path


def open_lock(path: Path) -> int:
    """Open a lock file for reading and writing, made when missing; closed on exec.

    Raises:
        StorageError: it is a link or no plain file, or this user may not write it.
    """
    with lock_errors(path):
        try:
            fd = _open(path, os.O_RDWR)
        except FileNotFoundError:
            _make(path)
            fd = _open(path, os.O_RDWR)
    return fd


def _open(path: Path, access: int) -> int:
    # Without O_CREAT: with it the kernel refuses another user's file in a sticky folder (fs.protected_regular).
    fd = os.open(path, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise StorageError(f"found something else at {path}, need a plain file: remove it")


def _make(path: Path) -> None:
    # Linked into place for the same reason as the folder; the umask would keep other users out for a moment.
    fd, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        os.fchmod(fd, 0o666)
        os.link(name, path)
    except FileExistsError:
        return  # another one was faster
    finally:
        os.close(fd)
        os.unlink(name)


def is_locked(path: Path) -> bool:
    """Return whether anybody holds a lock file, without being in the way of who wants it.

    Raises:
        StorageError: it is a link or no plain file, or this user may not read it.
    """
    with lock_errors(path):
        try:
            fd = _open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        return is_taken(fd)


def write_holder(path: Path, holder: Holder) -> None:
    """Write who holds a slot, and that nothing is known of its progress."""
    content = asdict(replace(holder, run_name=_text(holder.run_name), owner=_text(holder.owner), progress=None))
    _write(path, _padded(content), 0)


def write_progress(path: Path, run_id: str, progress: SlotProgress | None) -> None:
    """Write how far a run is; shown while the slot is that run's."""
    _write(path, _padded({"run_id": run_id} | asdict(progress)) if progress else _padded(None), _HALF)


def clear(path: Path) -> None:
    """Remove the text of a slot that nobody holds."""
    _write(path, _padded(None) * 2, 0)


def _write(path: Path, data: bytes, offset: int) -> None:
    fd = open_lock(path)
    try:
        with lock_errors(path):
            os.pwrite(fd, data, offset)  # one call: a reader meets the old text or the new one
    finally:
        os.close(fd)


def _padded(content: dict[str, Any] | None) -> bytes:
    data = b"" if content is None else json.dumps(content, ensure_ascii=False).encode(errors="replace")
    assert len(data) < _HALF, data  # the texts are cut
    return data.ljust(_HALF - 1) + b"\n"


def read_holder(path: Path, uuid: str, kind: Kind, number: int) -> Holder:
    """Return who holds a slot, as its record says; "?" where it says nothing that makes sense."""
    with lock_errors(path):
        data = _settled(path)
    try:
        found = json.loads(data[:_HALF])
        holder = Holder(
            run_id=_text(found["run_id"]),
            run_name=_text(found["run_name"]),
            owner=_text(found["owner"]),
            device=_text(found["device"]),
            uuid=uuid,
            kind=kind,
            number=number,
            pid=int(found["pid"]),
            since=_seconds(found["since"]),
            progress=None,
            memory_mib=None if found.get("memory_mib") is None else int(found["memory_mib"]),
            memory_source=_text(found.get("memory_source", "")),
            ends_by=None if found.get("ends_by") is None else _seconds(found["ends_by"]),
        )
    except _TORN:
        device = "cpu" if uuid == "cpu" else UNKNOWN
        return Holder(UNKNOWN, UNKNOWN, UNKNOWN, device, uuid, kind, number, 0, 0.0, None)
    return replace(holder, progress=_progress(data[_HALF:], holder.run_id))


def _progress(data: bytes, run_id: str) -> SlotProgress | None:
    try:
        found = json.loads(data)
        if found["run_id"] != run_id:
            return None  # of the one before: it was late
        remaining = found["remaining_s"]
        return SlotProgress(
            epoch=int(found["epoch"]),
            n_epochs=int(found["n_epochs"]),
            remaining_s=None if remaining is None else _seconds(remaining),
            updated=_seconds(found["updated"]),
            unit=str(found.get("unit", "epoch")),
        )
    except _TORN:
        return None


def _settled(path: Path) -> bytes:
    """Read until two readings agree: not every file system keeps a reader out of half a write."""
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        before = os.pread(fd, 2 * _HALF, 0)
        for _ in range(10):
            after = os.pread(fd, 2 * _HALF, 0)
            if after == before:
                break
            before = after
        return before
    finally:
        os.close(fd)


def _text(value: Any) -> str:
    return " ".join(str(value).split())[:120]  # one line, and small enough for its half of the record


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < _LAST_SECOND:
        raise ValueError(f"found {value}, need seconds")
    return seconds
