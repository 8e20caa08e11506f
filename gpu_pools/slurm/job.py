"""What Slurm starts for a run: `python -m gpu_pools.slurm.job RUN`, a worker for this run alone."""

import logging
import os
import sys
import time
from typing import Any

import httpx
from prefect.client.schemas.objects import StateType

from gpu_pools.device_count import device_count
from gpu_pools.names import host_name
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import parse_queue
from gpu_pools.prefect_client import PoolClient, Run, make_state
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slurm.hidden import hidden
from gpu_pools.slurm.job_host import JobHost
from gpu_pools.slurm.records import JobLedger
from gpu_pools.slurm.request import HOST
from gpu_pools.worker.monitor.run_monitor import RunMonitor
from gpu_pools.worker.program import StopSignals, as_program, log_to_stdout
from gpu_pools.worker.starter import Starter
from tasks.base.errors import GpuError, TrainyardError

logger = logging.getLogger("trainyard.slurm")

_TICK_S = 1.0
_PATIENCE_S = 300.0  # with a server that is away before the run has begun
_STILL_HELD_S = 90.0  # a process of an earlier attempt may hold the run so long


class JobRun:
    """Runs one run, again where its process dies, until it has ended or Slurm wants its node back.

    Args:
        run_id: of the run.
        job_id: Slurm's number of this job.
        client: of Prefect's server.
        signals: of this process.
    """

    def __init__(self, run_id: str, job_id: str, client: PoolClient, signals: StopSignals) -> None:
        self._run_id, self._client, self._signals = run_id, client, signals
        self._host = _host(run_id, client)
        self._ledger = JobLedger(job_id)
        self._kept = KeptSlots()
        # MLflow's library takes seconds, in which the GPU would be nobody's: the service that hands runs over tells it.
        self._monitor = RunMonitor(client, self._ledger, self._kept, lambda _: None, ends_mlflow=False)
        self._starter = Starter(client, self._host, self._ledger, self._kept, self._monitor, time.time)
        self._starter.prepare()
        self._silent_since: float | None = None
        self._held_since: float | None = None

    def work(self) -> None:
        """Bring the run to where it belongs."""
        while self._turn():
            self._signals.wait(_TICK_S)
        self._kept.forget(self._run_id)
        self._starter.close()
        self._ledger.close()

    def _turn(self) -> bool:
        """Do what is to be done now; return whether there will be more."""
        if self._signals.asked and self._monitor.get(self._run_id) is not None:
            self._monitor.request_end(self._run_id, "stop", "Slurm ends its job")
        more = self._tell(self._look)
        if more is None:  # the server is away
            begun = self._monitor.get(self._run_id) is not None
            return begun or (not self._signals.asked and time.monotonic() - (self._silent_since or 0) < _PATIENCE_S)
        return more

    def _look(self) -> bool:
        self._monitor.tick()
        if self._monitor.get(self._run_id) is not None:
            return True
        run = self._client.by_id([self._run_id]).get(self._run_id)
        if self._signals.asked or run is None or run.state != "SCHEDULED" or parse_queue(run.queue).host != HOST:
            return False
        return self._start(run)

    def _start(self, run: Run) -> bool:
        """Start the run; return whether there is something to watch, or to wait for."""
        try:
            uuids = self._host.given(parse_queue(run.queue), device_count(run.parameters))
            if self._starter.start(run, uuids, self._host.queues(self._client)):
                return self._monitor.get(run.id) is not None
        except TrainyardError as exc:
            if self._monitor.get(run.id) is not None:
                return True  # it has its process
            self._fail(run, str(exc))
            return False
        self._held_since = self._held_since or time.monotonic()
        if time.monotonic() - self._held_since > _STILL_HELD_S:
            self._fail(
                run, f"a process of an earlier attempt of the run still holds it: see its output on {host_name()}"
            )
            return False
        return True

    def _fail(self, run: Run, reason: str) -> None:
        logger.error("%s", reason)
        self._client.force(run.id, make_state(StateType.FAILED, "Failed", reason))

    def _tell(self, talk: Any) -> Any:
        """Return what a talk with the server returns; None where it does not answer, which is said once."""
        try:
            answer = talk()
        except httpx.HTTPError as exc:
            if self._silent_since is None:
                self._silent_since = time.monotonic()
                logger.warning("Prefect's server does not answer (%s); the run goes on", exc)
            return None
        self._silent_since = None
        return answer


def _host(run_id: str, client: PoolClient) -> JobHost:
    """Return what Slurm gave; where it cannot be used, the run fails with the reason."""
    try:
        return JobHost(get_probe())
    except GpuError as exc:
        client.force(run_id, make_state(StateType.FAILED, "Failed", str(exc)))
        raise


def main() -> None:
    """Run what Slurm was handed."""
    log_to_stdout()
    job_id = os.environ.get("SLURM_JOB_ID", "")
    if len(sys.argv) != 2 or not job_id:
        print("error: found no job of Slurm: sbatch starts this, for the run that it names", file=sys.stderr)
        sys.exit(2)
    signals = StopSignals()
    given = os.environ.get("SLURM_JOB_GPUS") or "none"
    logger.info("Slurm job %s on %s, GPU %s, run %s", job_id, host_name(), given, sys.argv[1])
    as_program(
        lambda: JobRun(sys.argv[1], job_id, PoolClient(), signals).work(),
        prepare=lambda: os.environ.update(hidden()),  # its run inherits them
    )


if __name__ == "__main__":
    main()
