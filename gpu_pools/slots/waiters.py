"""The waiting runs of a host, in files that whoever waits keeps locked: all know who is before them.

A terminal that waits for a slot has a file of its own, and a worker one with the runs of its queues. The kernel drops
the lock with the process, so a file counts while its process lives, as a slot does.
"""

import json
import os
import stat
import tempfile
import uuid
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from gpu_pools.hosts.offers import LABEL, offers_of
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import QueueError, parse_queue
from gpu_pools.slots import slot_files
from tasks.base.file_locks import lock

Who = Literal["terminal", "worker"]

_MOST_RUNS = 200  # of a file; those behind them do not matter to anybody soon
_MOST_BYTES = 2**18
_LAST_SECOND = 1e11
_DAMAGED = (ValueError, KeyError, TypeError, QueueError, RecursionError)


class Announcement:
    """What this process says of the runs that wait in it; `with` takes it back at the end of the block.

    Args:
        who: a terminal waits for one run, a worker has those of its queues.
    """

    def __init__(self, who: Who) -> None:
        self._path = slot_files.lock_dir() / f"{uuid.uuid4().hex}.{who}"
        self._fd: int | None = None
        self._said: tuple[Waiting, ...] = ()

    def say(self, runs: Sequence[Waiting]) -> None:
        """Let all know which runs wait here, best first.

        Raises:
            StorageError: the file cannot be written.
        """
        said = tuple(runs[:_MOST_RUNS])
        if said == self._said:
            return
        if not said:
            self.take_back()
            return
        with slot_files.lock_errors(self._path):
            fd = _written(self._path, json.dumps([_as_json(run) for run in said]).encode(errors="replace"))
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._said = fd, said

    def take_back(self) -> None:
        """Say that nothing waits here."""
        if self._fd is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
        self._fd, self._said = None, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.take_back()


def waiting_elsewhere(who: tuple[Who, ...], but: Collection[str]) -> list[Waiting]:
    """Return the runs that living processes of this host say wait in them, each once.

    Args:
        who: says so.
        but: ids of runs that are known already.

    Raises:
        StorageError: the files cannot be read.
    """
    folder = slot_files.lock_dir()
    with slot_files.lock_errors(folder):
        names = sorted(os.listdir(folder))
    found: dict[str, Waiting] = {}
    for name in names:
        if name.rpartition(".")[2] in who:
            for run in _read(folder / name):
                found.setdefault(run.run_id, run)
    return [run for run in found.values() if run.run_id not in but]


def _written(path: Path, content: bytes) -> int:
    """Write a file that is whole and locked from the first moment on; return what holds it."""
    fd, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        lock(fd)
        os.fchmod(fd, 0o644)
        os.write(fd, content)
        os.rename(name, path)
    except OSError:
        os.close(fd)
        os.unlink(name)
        raise
    return fd


def _read(path: Path) -> list[Waiting]:
    """Return what a file says; nothing where its process is gone, and the file then goes, too."""
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # taken back, or nothing that was written here
            return []
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return []
            if not lock(fd, shared=True):
                return list(_runs(os.read(fd, _MOST_BYTES)))
            if not _is_old(fd, path):
                _remove(path)
                return []
        finally:
            os.close(fd)


def _is_old(fd: int, path: Path) -> bool:
    """Return whether a newer file, or none, has taken the place of an open one."""
    try:
        return not os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:  # another user's
        return


def _as_json(run: Waiting) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "run_name": run.run_name[:120],
        "queue": run.queue.name,
        "priority": run.priority,
        "since": run.since,
        "owner": run.owner[:120],
        "flow": run.flow[:120],
        "limit_s": run.limit_s,
        "spent_s": run.spent_s,
        "memory_mib": run.memory_mib,
        "memory_source": run.memory_source[:120],
        "recent_use_s": run.recent_use_s,
        "served": run.served,
        "n_devices": run.n_devices,
        "n_hosts": run.n_hosts,
        "due": run.due,
        "offers": {host: offer.as_label() for host, offer in run.offers.items()},
        "share_of": run.share_of,
    }


def _runs(content: bytes) -> Iterator[Waiting]:
    """Yield what a file says, as far as it makes sense: every user of the host may have written it."""
    try:
        rows = json.loads(content)
        for row in rows:
            yield Waiting(
                *(_text(row["run_id"]), _text(row["run_name"]), parse_queue(row["queue"])),
                priority=min(10, max(1, int(row["priority"]))),
                since=min(_LAST_SECOND, max(0.0, float(row["since"]))),
                owner=_text(row["owner"]),
                flow=_text(row.get("flow", "")),
                limit_s=None if row.get("limit_s") is None else float(row["limit_s"]),
                spent_s=max(0.0, float(row.get("spent_s", 0.0))),
                memory_mib=None if row.get("memory_mib") is None else int(row["memory_mib"]),
                memory_source=_text(row.get("memory_source", "")),
                recent_use_s=max(0.0, float(row.get("recent_use_s", 0.0))),
                served=min(_LAST_SECOND, max(0.0, float(row.get("served", 0.0)))),
                n_devices=max(1, int(row.get("n_devices", 1))),
                n_hosts=max(1, int(row.get("n_hosts", 1))),
                due=min(_LAST_SECOND, max(0.0, float(row.get("due", 0.0)))),
                offers=offers_of({f"{LABEL}{_text(host)}": said for host, said in dict(row.get("offers", {})).items()}),
                share_of=_text(row.get("share_of", "")),
            )
    except _DAMAGED:
        return


def _text(value: Any) -> str:
    return " ".join(str(value).split())[:120]
