"""A run on this host that a worker brings to its end."""

import subprocess
from dataclasses import dataclass

import psutil

from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Entry


@dataclass(slots=True)
class MonitoredRun:
    """A run in care: what is on disk, and what only this process knows."""

    entry: Entry
    lease: Lease | None  # None: taken over from another worker; the run's own process holds the slot
    process: subprocess.Popen[bytes] | None
    told: bool = False  # the server knows where the process is
    asked_at: float | None = None  # to end
    exit_code: int | None = None
    gone_at: float | None = None  # its processes
    not_before: float = 0.0  # of the next try to close its books
    over_since: float | None = None  # the server calls the run ended, while its process lives

    @property
    def closing(self) -> bool:
        return self.entry.phase == "closing"


def members(entry: Entry) -> list[psutil.Process]:
    """Return the living processes of a run."""
    return run_process.members(entry.run_id, entry.pid, entry.create_time, run_setup.lock_path(entry.run_id))


def kill(entry: Entry) -> None:
    """Kill every process of a run."""
    run_process.kill(entry.run_id, entry.pid, entry.create_time, run_setup.lock_path(entry.run_id))
