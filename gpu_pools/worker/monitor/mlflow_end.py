"""Ends the MLflow run of a run that could not do so itself."""

import os
import subprocess
from collections.abc import Callable

from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.ledger import Entry
from gpu_pools.worker.monitor.final_state import Outcome
from tasks.base.startup import module_command

COMMAND = tuple(module_command("tasks.tracking.dead_run_cleanup"))
_AGAIN_S = 30.0

_STATUS: dict[Outcome, str] = {"cancelled": "KILLED", "timed out": "KILLED", "crashed": "FAILED"}


def mlflow_status(outcome: Outcome) -> str | None:
    """Return MLflow's word for how a run ended; None: it has said so itself, or goes on."""
    return _STATUS.get(outcome)


class MlflowEnd:
    """Calls `tasks.tracking.dead_run_cleanup` for runs that have ended, until it has done its part.

    In processes of their own: it takes seconds, and MLflow's library, which a worker does not load.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._not_before: dict[str, float] = {}

    def is_done(self, entry: Entry) -> bool:
        """Go on with a run; return whether MLflow has been told.

        Args:
            entry: of the run; its `reason` is MLflow's word.
        """
        process = self._processes.get(entry.run_id)
        if process is not None:
            code = process.poll()
            if code is None:
                return False
            del self._processes[entry.run_id]
            if code == 0:
                self._not_before.pop(entry.run_id, None)
                return True
            self._not_before[entry.run_id] = self._clock() + _AGAIN_S
        if self._clock() >= self._not_before.get(entry.run_id, 0.0):
            self._processes[entry.run_id] = _start(entry)
        return False


def _start(entry: Entry) -> subprocess.Popen[bytes]:
    folder = run_setup.files_of(entry.run_id)
    return run_process.start([*COMMAND, str(folder), entry.reason], os.environ, folder, folder / "output.log", ())
