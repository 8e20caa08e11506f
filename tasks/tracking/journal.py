"""Writes what a run sends to MLflow to a local file first, so that no outage loses it."""

import fcntl
import json
import os
import shutil
import struct
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from gpu_pools.stopping import pause
from gpu_pools.watching.backlog import JOURNAL, SENT, read_sent
from tasks.base.errors import TrackingError
from tasks.base.workspace import storage_errors, write_json

_COPY_UP_TO_BYTES = 8 * 2**20
"""Files up to this size are copied into the outbox; larger ones, the weights, are linked: those are replaced
by renaming, never written in place."""

_LOCK, _WANTED = "writer.lock", "writer.wanted"
"""In the folder of a tracked run, beside the journal: who writes, and that another one waits."""

_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Card:
    """What identifies one MLflow run on the disk of the run that fills it."""

    token: str  # a tag of the MLflow run, by which it is found when its id could not be written down any more
    experiment: str
    run_name: str
    started_ms: int
    params: dict[str, str] = field(default_factory=dict)
    store: str = ""  # where the run was created, for messages; without user and password
    experiment_id: str | None = None
    run_id: str | None = None


def read_card(folder: Path) -> Card | None:
    """Return the card in `folder`, or None where no run was tracked yet.

    Raises:
        TrackingError: the file is not one of ours.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        return Card(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as exc:
        raise TrackingError(f"cannot read {path}: need the card of a tracked run ({exc})") from exc


def write_card(folder: Path, card: Card) -> None:
    """Write the card atomically."""
    write_json(folder / "run.json", asdict(card))


def open_card(folder: Path, experiment: str, run_name: str, params: dict[str, str], free: Collection[str] = ()) -> Card:
    """Return the card of the run in `folder`, a new one written down before anything else can be lost.

    Args:
        folder: of the run.
        experiment, run_name, params: of a new card; one that is there keeps its own.
        free: names of parameters, as in `params`, that may differ from those the run began with.

    Raises:
        TrackingError: the folder holds a run of another experiment or with other parameters.
    """
    card = read_card(folder)
    if card is None:
        card = Card(uuid.uuid4().hex, experiment, run_name, now_ms(), params)
        write_card(folder, card)
        return card
    if card.experiment != experiment:
        raise TrackingError(f"{folder} holds a run of experiment {card.experiment!r}, not of {experiment!r}")
    for key in differing(card.params, params):
        if key not in free:
            raise TrackingError(
                f"{folder} holds a run with {key}={card.params.get(key)}, now it is {params.get(key)}: "
                "a run goes on only with the parameters it began with; start a new one, or remove the folder"
            )
    return card


def differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the names, sorted, of what is not the same in both."""
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def now_ms() -> int:
    """Return the time as MLflow counts it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@contextmanager
def sole_writer(folder: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the folder for this process while the block runs.

    Args:
        folder: of a tracked run.
        wait_s: so long another process is waited for; one that only sends what is there gives way (`is_wanted`).

    Raises:
        TrackingError: another living process holds it.
        Interrupted: a signal has come while it was waited for.
    """
    path, wanted = folder / _LOCK, folder / _WANTED
    with storage_errors(path), path.open("a+") as file:
        until = time.monotonic() + wait_s
        while (held := _lock(file)) is not None:
            if time.monotonic() >= until:
                file.seek(0)
                text = f"process {file.read() or '?'} still writes the run in {folder}: wait or stop it"
                raise TrackingError(text) from held
            wanted.touch()
            pause(_AGAIN_S)
        wanted.unlink(missing_ok=True)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_wanted(folder: Path) -> bool:
    """Return whether a process waits to write the run that this one holds."""
    return (folder / _WANTED).exists()


def writer_of(folder: Path) -> int | None:
    """Return the process that holds a folder, without taking it away from anybody; None: no other one does."""
    # Of `man 2 fcntl`, struct flock: l_type, l_whence, l_start, l_len, l_pid.
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with (folder / _LOCK).open("rb") as file:
            kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return None
    return None if kind == fcntl.F_UNLCK else int(pid)


def _lock(file: IO[str]) -> OSError | None:
    """Take the lock of a file; return why it cannot be had, None where it is taken."""
    try:
        # A record lock: unlike flock it is not inherited by forked loader processes that outlive a kill.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as exc:
        return exc
    return None


class Journal:
    """Lines appended by one run, files laid out beside them, and how far both have been sent."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.outbox = folder / "outbox"
        self._sent_path = folder / SENT
        self._lock = threading.Lock()
        with storage_errors(self.path):
            for torn in folder.glob(".sent.json.*"):  # of a process that was killed while it wrote
                torn.unlink(missing_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = cut_torn_line(self._fd)
        self.sent = min(read_sent(folder), self._size)

    def close(self) -> None:
        """Release the file."""
        fd, self._fd = (
            self._fd,
            -1,
        )  # a thread that hangs in a request finds no other file under the old number
        os.close(fd)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line; whole or not at all, also when the disk is full.

        Raises:
            StorageError: it could not be written.
        """
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock, storage_errors(self.path):
            written = 0
            try:
                while written < len(line):
                    written += os.write(self._fd, line[written:])
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
            self._size += len(line)

    def sync(self) -> None:
        """Return when all lines so far would survive a power cut."""
        with storage_errors(self.path):
            os.fsync(self._fd)

    @property
    def all_sent(self) -> bool:
        """Whether nothing is left to send."""
        return self.sent >= self._size

    @property
    def ended(self) -> bool:
        """Whether the last attempt at the run came to its end."""
        marks = [entry["op"] for entry, _ in self.entries() if entry["op"] in {"begin", "end"}]
        return bool(marks) and marks[-1] == "end"

    def mark_sent(self, offset: int) -> None:
        """Remember that everything before `offset` has arrived."""
        self.sent = offset
        write_json(self._sent_path, {"offset": offset})

    def entries(self, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield every whole line from `offset` on, as `read_lines`."""
        return read_lines(self.path, offset)

    def stow(self, source: Path) -> str:
        """Keep a file, or all files of a folder, until they are sent; return their place in the outbox.

        Raises:
            TrackingError: there is nothing at `source`.
        """
        if not source.exists():
            raise TrackingError(f"found nothing at {source}, need a file or a folder to keep with the run")
        place = self.new_place()
        with storage_errors(place):
            if source.is_dir():
                shutil.copytree(source, place, copy_function=_keep, dirs_exist_ok=True)
            else:
                _keep(str(source), str(place / source.name))
        return place.name

    def new_place(self) -> Path:
        """Return a new, empty folder in the outbox."""
        place = self.outbox / uuid.uuid4().hex
        with storage_errors(place):
            place.mkdir(parents=True)
        return place


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield every whole line of a journal from `offset` on, with the offset behind it.

    Raises:
        TrackingError: a line is damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except ValueError as exc:
                raise TrackingError(f"{path} is damaged at byte {offset}: {line[:80]!r}") from exc
            offset += len(line)
            yield entry, offset


def cut_torn_line(fd: int) -> int:
    """Remove what a killed process left behind the last whole line; return the size that remains."""
    size = os.fstat(fd).st_size
    end = size
    while end > 0:
        start = max(0, end - 2**16)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return end


def _keep(source: str, target: str) -> None:
    if os.stat(source).st_size > _COPY_UP_TO_BYTES:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or one without links: copied below
    shutil.copyfile(source, target)
