"""Real processes of runs, as a worker starts them, and a worker's monitor over them with a clock that a test moves."""

import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from gpu_pools.prefect_client import PoolClient
from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.lease import Holder, Lease, acquire
from gpu_pools.slots.ledger import Entry, Ledger
from gpu_pools.worker.monitor.run_monitor import RunMonitor
from tasks.base.processes import identity
from tasks.base.workspace import run_dir

SLEEPS = ("sleep", "300")
STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 300; done")


class Host:
    """A worker's monitor, and the runs that a test has started on it.

    Attributes:
        now: Unix seconds, as the monitor reads them; a test moves it on.
        returned: ids of runs that were put back into their queue.
    """

    def __init__(self, client: PoolClient) -> None:
        self._client = client
        self.now = time.time()
        self.returned: list[str] = []
        self.ledger, self.kept = Ledger("one"), KeptSlots()
        self.monitor = self._monitor()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _monitor(self) -> RunMonitor:
        return RunMonitor(self._client, self.ledger, self.kept, self.returned.append, lambda: self.now)

    def restart(self) -> None:
        """Let a new monitor take the place of the old one, as after the death of the worker."""
        self.monitor = self._monitor()

    def start(
        self,
        run_id: str,
        argv: Sequence[str] = SLEEPS,
        *,
        queue: str = "cpu.training",
        slot: bool = False,
        **fields: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a process for a run, holding its lock; give it to the monitor, with a slot of the CPU if wanted."""
        lease = take_slot(run_id) if slot else None
        lock = run_setup.lock_run(run_id)
        assert lock is not None
        env = {**os.environ, run_process.MARK: run_id}
        fds = (lock, *lease.run_fds) if lease else (lock,)
        process = run_process.start(argv, env, run_dir(run_id), run_setup.output_file(run_id), fds)
        os.close(lock)
        if lease is not None:
            lease.hand_over()
        self._processes[run_id] = process
        noted = new_entry(run_id, queue, began=self.now, **fields)
        noted = noted.but(pid=process.pid, identity=identity(process.pid))
        self.ledger.write(noted)
        self.monitor.add(noted, lease, process)
        return process

    def tick(self, seconds: float = 0.0) -> None:
        """Move the clock on, and let the monitor look once."""
        self.now += seconds
        self.monitor.tick()

    def tick_until_exit(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process, then let the monitor look once."""
        process.wait(10)
        self.tick()

    def close(self) -> None:
        """Kill what still runs, with all it has started."""
        for run_id, process in self._processes.items():
            run_process.kill(run_id, None, None, run_setup.lock_path(run_id))
            process.wait()
        self.ledger.close()


def new_entry(run_id: str, queue: str = "cpu.training", **fields: Any) -> Entry:
    """Return the entry of a run that has its process on the CPU."""
    known: dict[str, Any] = {"phase": "running", "attempt": 1, "began": time.time(), **fields}
    return Entry(run_id, "run", "anna@boxa", queue, "cpu", "cpu", 0, **known)


def take_slot(run_id: str) -> Lease:
    """Return a training slot of the CPU, held for a run."""
    holder = Holder(run_id, "run", "anna@boxa", "cpu", "cpu", "training", -1, os.getpid(), time.time(), None)
    lease = acquire("cpu", "training", 2, holder)
    assert lease is not None
    return lease
