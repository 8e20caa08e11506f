"""The list of runs that a worker has started, on disk, so that another worker can take over."""

import dataclasses
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import try_lock
from tasks.base.workspace import home, storage_errors, write_json

Phase = Literal["claimed", "running", "closing"]
Ending = Literal["cancel", "time limit", "stop"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One run on this host.

    Args:
        phase: `claimed` until its process is started, `closing` once it is gone and MLflow is being told.
        attempt: 1 for the first.
        pid, identity: of the process, as `tasks.base.processes.identity` has it.
        began: the attempt, Unix seconds.
        limit_s: the run's time limit, for all attempts together.
        spent_s: what earlier attempts took of it.
        priority: that it had in its queue, 1 (first) to 10.
        ending: why the worker ends it, None while it does not.
        tag: of its devices: cuda:0, or cuda:0,cuda:2.
        uuid, number: of its first slot.
        more: uuids of its other devices, in the order of `tag`.
    """

    run_id: str
    run_name: str
    owner: str
    queue: str
    tag: str
    uuid: str
    number: int
    phase: Phase
    attempt: int
    began: float
    limit_s: float | None = None
    spent_s: float = 0.0
    pid: int | None = None
    identity: str | None = None
    ending: Ending | None = None
    reason: str = ""
    priority: int | None = None
    more: tuple[str, ...] = ()

    @property
    def uuids(self) -> tuple[str, ...]:
        """The uuids of all its devices; none of a run whose device nobody knows."""
        return (self.uuid, *self.more) if self.uuid else ()

    def but(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Ledger:
    """The entries of one worker, in `TRAINYARD_HOME/worker/<name>/`; held by one process at a time.

    Args:
        name: of the worker.
        folder: of the entries, where it is another one.

    Raises:
        ConfigError: a worker of that name is running.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.folder = folder or home() / "worker" / name
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(self.folder / "lock")
        if lock is None:
            raise ConfigError(f"found a running worker called {name!r} in {home()}: give this one another --name")
        self._lock = lock

    def close(self) -> None:
        """Let another worker take the entries over."""
        os.close(self._lock)

    def write(self, entry: Entry) -> None:
        """Put an entry on disk; the old or the new one is there, whatever happens."""
        write_json(self.folder / f"{entry.run_id}.json", dataclasses.asdict(entry))

    def remove(self, run_id: str) -> None:
        """Forget a run that is where it belongs."""
        (self.folder / f"{run_id}.json").unlink(missing_ok=True)

    @property
    def place(self) -> str:
        """Return host and home, as runs are marked with: several yards may share a host, and a home several hosts."""
        return f"{socket.gethostname()}:{home()}"

    def knows(self, run_id: str) -> bool:
        """Return whether any worker of this home has the run in its ledger."""
        return any(self.folder.parent.glob(f"*/{run_id}.json"))

    def entries(self) -> list[Entry]:
        """Return all entries.

        Raises:
            StorageError: a file is damaged.
        """
        return [_read(path) for path in sorted(self.folder.glob("*.json"))]

    def take_over(self) -> list[Entry]:
        """Move the entries of dead workers of this host here, and return them."""
        return [entry for folder in self._others() for entry in self._move(folder)]

    def _others(self) -> Iterator[Path]:
        for folder in sorted(self.folder.parent.iterdir()):
            if folder != self.folder and folder.is_dir() and any(folder.glob("*.json")):
                yield folder

    def _move(self, folder: Path) -> Iterator[Entry]:
        lock = try_lock(folder / "lock")
        if lock is None:
            return  # its worker lives
        try:
            for path in sorted(folder.glob("*.json")):
                target = self.folder / path.name
                path.rename(target)
                yield _read(target)
        finally:
            os.close(lock)


def _read(path: Path) -> Entry:
    try:
        content = json.loads(path.read_text())
        content.pop("create_time", None)  # of a version before; such a process is found by what it inherited
        return Entry(**{**content, "more": tuple(content.get("more", ()))})
    except (ValueError, TypeError, AttributeError) as exc:
        raise StorageError(f"cannot read {path}: need an entry of the worker's ledger; remove it") from exc
