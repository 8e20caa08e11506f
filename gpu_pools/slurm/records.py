"""Which runs were handed to Slurm, on disk: `TRAINYARD_HOME/slurm/`, shared by the submitting host and the nodes."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gpu_pools.slots.ledger import Entry, Ledger
from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import FOREVER, lock, try_lock
from tasks.base.workspace import home, storage_errors, write_json

_COMMENT = "trainyard"


@dataclass(frozen=True, slots=True)
class Record:
    """A run that was handed to Slurm, or is about to be.

    Args:
        run_id: of the run.
        token: of its job: one that ran before is never taken for this one.
        job_id: Slurm's; None: it is not known whether sbatch took the job.
        since: it is handed over, Unix seconds.
        n_failed: jobs of the run in a row that ended without a word on the run.
    """

    run_id: str
    token: str
    job_id: str | None
    since: float
    n_failed: int = 0

    @property
    def comment(self) -> str:
        """The comment of its job, by which it is found again."""
        return f"{_COMMENT} {self.run_id} {self.token}"

    def but(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Records:
    """The records of a home; held by one process at a time.

    Raises:
        ConfigError: another process hands this home's runs to Slurm.
    """

    def __init__(self) -> None:
        self._folder = home() / "slurm"
        with storage_errors(self._folder):
            (self._folder / "runs").mkdir(parents=True, exist_ok=True)
        held = try_lock(self._folder / "lock")
        if held is None:
            raise ConfigError(f"found another process that hands the runs of {home()} to Slurm: one does")
        self._lock = held
        with self.handing():
            pass  # an sbatch that outlived the process before this one has ended now

    def close(self) -> None:
        """Let another process go on."""
        os.close(self._lock)

    @contextmanager
    def handing(self) -> Iterator[int]:
        """Yield a lock for sbatch to inherit: whoever goes on after a death waits until sbatch has said its word."""
        with storage_errors(self._folder):
            fd = os.open(self._folder / "handing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            lock(fd, wait_s=FOREVER)
            yield fd
        finally:
            os.close(fd)

    def all(self) -> list[Record]:
        """Return the records.

        Raises:
            StorageError: a file is damaged.
        """
        return [_read(path) for path in sorted((self._folder / "runs").glob("*.json"))]

    def write(self, record: Record) -> None:
        """Put a record on disk."""
        write_json(self._folder / "runs" / f"{record.run_id}.json", dataclasses.asdict(record))

    def remove(self, run_id: str) -> None:
        """Forget a run that has ended."""
        (self._folder / "runs" / f"{run_id}.json").unlink(missing_ok=True)


def _read(path: Path) -> Record:
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as exc:
        raise StorageError(f"cannot read {path}: need the record of a run handed to Slurm; remove it") from exc


def job_folder(job_id: str) -> Path:
    """Return the folder of a job's own ledger."""
    return home() / "slurm" / "jobs" / job_id


class JobLedger(Ledger):
    """The ledger of one job of Slurm; after a requeue the job finds in it what its processes have left.

    Args:
        job_id: of the job.

    Raises:
        ConfigError: a process of this job is running.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id}", folder=job_folder(job_id))
        self._job_id = job_id

    @property
    def place(self) -> str:
        """Return what its run is marked with: no worker of a host takes it for one of its own."""
        return f"slurm:{self._job_id}"

    def take_over(self) -> list[Entry]:
        """Return nothing: what other jobs have left is for others."""
        return []

    def take_over_from_hosts(self, is_gone: Callable[[str], bool], is_dead: Callable[[str], bool]) -> list[Entry]:
        """Return nothing: Slurm starts the jobs of a node that is gone elsewhere."""
        return []
