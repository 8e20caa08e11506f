"""A run of this host that a worker watches: its entry in the ledger, its slot, its processes."""

import subprocess
from dataclasses import dataclass

import psutil

from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Entry
from tasks.base.processes import identity

_OWN_MODULE = "gpu_pools.process.run_main"


@dataclass(slots=True)
class MonitoredRun:
    """What is on disk of a run, and what only this worker knows; times in Unix seconds."""

    entry: Entry
    lease: Lease | None = None  # None: taken over from another worker; the run's own process holds the slot
    process: subprocess.Popen[bytes] | None = None  # None: taken over, it is no child of this worker
    announced: bool = False  # the server knows where the process is
    end_requested_at: float | None = None
    ended_on_server_at: float | None = None  # seen there with a last state, while its process lives
    exited_at: float | None = None  # no process of it was left
    exit_code: int | None = None  # of the process; negative: the signal; None: unknown

    @property
    def id(self) -> str:
        """Return the run's id."""
        return self.entry.run_id

    @property
    def ended(self) -> bool:
        """Return whether the run has its last state in Prefect, and only MLflow is still to be told."""
        return self.entry.phase == "closing"

    def alive(self) -> bool:
        """Return whether the run's own process lives."""
        if self.process is not None:
            self.exit_code = self.process.poll()
            return self.exit_code is None
        return self.entry.pid is not None and run_process.alive(self.entry.pid, self.entry.identity)

    def has_exited(self) -> bool:
        """Return whether no process of the run is left; those that its own process left behind are killed."""
        if self.alive():
            return False
        left = self._processes()
        if not left and run_setup.run_is_dead(self.id):
            return True
        own = [process for process in left if _OWN_MODULE in run_process.command_line(process)]
        if own and self.entry.pid is None:  # a worker was killed between the start and its note of it
            pid = own[0].pid
            self.entry = self.entry.but(phase="running", pid=pid, identity=identity(pid))
        else:
            self.kill()
        return False

    def kill(self) -> None:
        """Kill every process of the run."""
        entry = self.entry
        run_process.kill(entry.run_id, entry.pid, entry.identity, run_setup.lock_path(entry.run_id))

    def release_slot(self) -> None:
        """Let go of the slot, if this worker holds it."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    def _processes(self) -> list[psutil.Process]:
        entry = self.entry
        return run_process.members(entry.run_id, entry.pid, entry.identity, run_setup.lock_path(entry.run_id))
