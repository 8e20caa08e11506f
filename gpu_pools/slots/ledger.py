"""The list of runs that a worker has started, on disk, so that another worker can take over."""

import dataclasses
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from gpu_pools.names import host_name
from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import try_lock
from tasks.base.workspace import home, storage_errors, write_atomic, write_json

_HOST = "host"
"""The file in a worker's folder that has the name of its host."""

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
        write_atomic(self.folder / _HOST, host_name().encode())

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

    def lost(self, run_id: str) -> bool:
        """Return whether a run is not in this ledger but in one of another host, which took it over."""
        name = f"{run_id}.json"
        if (self.folder / name).is_file():
            return False
        return any((folder / name).is_file() for folder, host in self._others() if host != host_name())

    def take_over(self) -> list[Entry]:
        """Move the entries of dead workers of this host here, and return them.

        On a home that several hosts share, the runs of a worker that has died elsewhere go on there, and are the
        business of that host's next worker.
        """
        return [
            entry
            for folder, host in self._others()
            if host == host_name()
            for entry in self._move(folder, lambda _: True)
        ]

    def take_over_from_hosts(self, is_gone: Callable[[str], bool], is_dead: Callable[[str], bool]) -> list[Entry]:
        """Move the entries of hosts that are gone here, and return them.

        Args:
            is_gone: returns whether nothing has been heard of a host for long.
            is_dead: returns whether no process of a run is left on any host.
        """
        others = [folder for folder, host in self._others() if host != host_name() and is_gone(host)]
        return [entry for folder in others for entry in self._move(folder, is_dead)]

    def _others(self) -> Iterator[tuple[Path, str]]:
        """Yield the folders of other workers that have entries, each with its host."""
        for folder in sorted(self.folder.parent.iterdir()):
            if folder != self.folder and folder.is_dir() and any(folder.glob("*.json")):
                named = folder / _HOST  # a version before wrote none, and knew no other hosts
                yield folder, named.read_text() if named.is_file() else host_name()

    def _move(self, folder: Path, is_wanted: Callable[[str], bool]) -> Iterator[Entry]:
        lock = try_lock(folder / "lock")
        if lock is None:
            return  # its worker lives
        try:
            for path in sorted(folder.glob("*.json")):
                if not is_wanted(path.stem):
                    continue
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
