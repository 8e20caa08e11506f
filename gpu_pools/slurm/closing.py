"""Ends in MLflow what jobs of Slurm have left there, once the jobs are over."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from gpu_pools.placement.queues import parse_queue
from gpu_pools.prefect_client import Run
from gpu_pools.process import run_setup
from gpu_pools.slots.ledger import Entry
from gpu_pools.slurm.records import job_folder
from gpu_pools.worker.monitor.final_state import Outcome
from gpu_pools.worker.monitor.mlflow_end import MlflowEnd, mlflow_status
from tasks.base.workspace import home, write_json

_TO_CLOSE = "closing"


class Closing:
    """Reads what jobs have left in their ledgers, and tells MLflow of those that could not.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._mlflow = MlflowEnd(clock)
        self._folder = home() / "slurm" / _TO_CLOSE
        self._folder.mkdir(parents=True, exist_ok=True)

    def entry_of(self, job_id: str | None) -> Entry | None:
        """Return what a job has noted of its run; None: nothing yet, or nothing any more."""
        for path in job_folder(job_id).glob("*.json") if job_id else ():
            return _read(path)
        return None

    def blank(self, run: Run) -> Entry:
        """Return the entry of a run whose job has noted nothing."""
        attempt, spent_s = run_setup.read_attempt(run.id)
        device = parse_queue(run.queue).device
        began = self._clock()
        return Entry(
            *(run.id, run.name, "", run.queue, device, "", -1, "running", attempt, began), limit_s=None, spent_s=spent_s
        )

    def take(self, job_id: str | None, entry: Entry | None = None, outcome: Outcome = "nothing") -> None:
        """Remove the ledger of a job that is over; what MLflow has not been told of it is told from now on.

        Args:
            job_id: of the job; None: there was none.
            entry: of its run, where it was decided here how that ended.
            outcome: how it ended.
        """
        left = self.entry_of(job_id)
        word = mlflow_status(outcome) or (left.reason if left is not None and left.phase == "closing" else "")
        if word and (found := left or entry) is not None:
            closing = found.but(phase="closing", reason=word)
            write_json(self._folder / f"{closing.run_id}.json", dataclasses.asdict(closing))
        if job_id is not None:
            shutil.rmtree(job_folder(job_id), ignore_errors=True)

    def tick(self) -> None:
        """Go on with telling MLflow."""
        for path in sorted(self._folder.glob("*.json")):
            entry = _read(path)
            if entry is None or self._mlflow.is_done(entry):
                path.unlink(missing_ok=True)


def _read(path: Path) -> Entry | None:
    try:
        return Entry(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # removed by its job just now
