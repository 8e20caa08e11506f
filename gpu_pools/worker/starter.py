"""Starts a run on its slots: takes them, claims the run, starts its process."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence

import httpx
from prefect.client.schemas.objects import StateType

from gpu_pools.hosts.shares import call_hosts, dismiss, dismiss_others
from gpu_pools.job_variables import time_limit_s
from gpu_pools.placement.host_state import HostState, Queues
from gpu_pools.placement.queues import parse_queue
from gpu_pools.prefect_client import PoolClient, Run, make_state
from gpu_pools.process import run_setup
from gpu_pools.process.warm_process import WarmProcess
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Entry, Ledger
from gpu_pools.worker.monitor.run_monitor import RunMonitor
from gpu_pools.worker.permitted import own_entrypoint, run_environment
from tasks.base.errors import TrainyardError
from tasks.base.processes import identity
from tasks.base.workspace import run_dir

logger = logging.getLogger("trainyard.worker")

_CLAIMS = 3


class Starter:
    """Starts runs, each of which the monitor watches from then on.

    Args:
        client: of Prefect's server.
        host: has the slots.
        ledger: what has been started.
        kept: slots of runs that died, which start again.
        monitor: watches what was started.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: PoolClient,
        host: HostState,
        ledger: Ledger,
        kept: KeptSlots,
        monitor: RunMonitor,
        clock: Callable[[], float],
    ) -> None:
        self._client, self._host, self._ledger, self._kept = client, host, ledger, kept
        self._monitor, self._clock = monitor, clock
        self._warm = WarmProcess()

    def prepare(self) -> None:
        """Have a process ready for the next run."""
        self._warm.refill()

    def close(self) -> None:
        """End the process that is ready."""
        self._warm.close()

    def start(self, run: Run, uuids: Sequence[str], queues: Queues, team: Sequence[str] = ()) -> bool:
        """Start a run on its devices, in an order in which each step can fail without a trace.

        Args:
            run: one that waits.
            uuids: of its devices.
            queues: with the limits set in Prefect.
            team: the other hosts on which it starts.

        Returns:
            False: it waits on, as a slot of it was taken meanwhile, or a process of it still lives. True: it has its
            process, or the server says that it does not wait any more.

        Raises:
            TrainyardError: it cannot be started, or, where the monitor has it, not be written down.
            httpx.HTTPError: the server does not answer.
        """
        limit_s = time_limit_s(run)
        asks = self._host.asks(run, parse_queue(run.queue))
        lease = self._kept.take(run.id, uuids) or self._host.take(asks, uuids, queues)
        if lease is None:
            return False
        run_lock = None
        try:
            run_lock = run_setup.lock_run(run.id)
            if run_lock is None:
                lease.release()
                return False
            self._claim_and_start(run, self._entry(run, lease, limit_s, asks.priority), lease, run_lock, team)
            return True
        except TrainyardError:
            if self._monitor.get(run.id) is None:  # it has no process
                lease.release()
                self._ledger.remove(run.id)
            raise
        finally:
            if run_lock is not None:
                os.close(run_lock)

    def _entry(self, run: Run, lease: Lease, limit_s: float | None, priority: int) -> Entry:
        attempt, spent_s = run_setup.read_attempt(run.id)
        holder = lease.holder
        return Entry(
            *(run.id, run.name, holder.owner, run.queue, lease.tag, holder.uuid, holder.number),
            phase="claimed",
            attempt=attempt,
            began=self._clock(),
            limit_s=limit_s,
            spent_s=spent_s,
            priority=priority,
            more=tuple(other.uuid for other in lease.holders[1:]),
        )

    def _claim_and_start(self, run: Run, entry: Entry, lease: Lease, run_lock: int, team: Sequence[str]) -> None:
        try:
            # The run's lock is held: who ran it meanwhile has ended, and said so. Prefect would start it once more.
            if not (known := self._waits(run)):
                lease.release()
                return
            entrypoint, variables = self._program(run)
            # Before the claim: the others keep their devices for the run as long as it waits, and for its shares then.
            meeting = call_hosts(self._client, run, entry, len(entry.uuids), team) if team else ""
            claim = self._claim(entry, known)
            if team and claim is not None:
                dismiss_others(self._client, run.id, meeting)
        except httpx.HTTPError:  # claimed or not, the server knows; found out when it answers
            lease.release()
            self._monitor.add(entry, None, None)
            raise
        if claim is None:
            lease.release()
            self._ledger.remove(entry.run_id)
            if team:
                dismiss(self._client, run.id, meeting)
            return
        if team:
            variables[run_setup.MEETING] = meeting
        devices, threads = self._host.devices_of(entry.uuids), self._host.threads
        env = run_setup.process_environment(
            entry, lease, devices, entrypoint=entrypoint, extra=variables, threads=threads
        )
        self._start_process(entry, claim, env, lease, run_lock)

    def _waits(self, run: Run) -> Run | None:
        """Return a run as it is now; None: it waits no more, or was moved to another device since it was looked at."""
        known = self._client.by_id([run.id]).get(run.id)
        return known if known is not None and known.state == "SCHEDULED" and known.queue == run.queue else None

    def _program(self, run: Run) -> tuple[str, dict[str, str]]:
        """Return the entrypoint of a run, and the variables that its deployment and the run itself set."""
        deployment = self._client.deployment(run.deployment)
        own, its = run_environment(deployment.variables), run_environment(run.job_variables)
        return own_entrypoint(deployment.entrypoint), {**own, **its}

    def _claim(self, entry: Entry, run: Run) -> str | None:
        """Return the id of the state in which the run is this worker's, None where the server refuses."""
        self._ledger.write(entry)  # before the claim: a worker killed in between is found out by it
        state = make_state(StateType.PENDING, "Pending", f"starts on {entry.tag}")
        for _ in range(_CLAIMS):
            if claim := self._client.propose(run.id, state, after=run.state_id):
                return claim
            newer = self._waits(run)
            if newer is None or newer.state_id == run.state_id:
                return None
            run = newer  # another worker has said meanwhile why the run waits
        return None

    def _start_process(self, entry: Entry, claim: str, env: Mapping[str, str], lease: Lease, run_lock: int) -> None:
        folder, output = run_dir(entry.run_id), run_setup.output_file(entry.run_id)
        fds = (*lease.run_fds, run_lock)
        process = self._warm.give(entry.run_id, claim, env=env, folder=folder, output=output, fds=fds)
        lease.record(pid=process.pid)
        lease.hand_over()
        os.ftruncate(run_lock, 0)
        os.pwrite(run_lock, str(process.pid).encode(), 0)
        entry = entry.but(phase="running", pid=process.pid, identity=identity(process.pid))
        self._monitor.add(entry, lease, process)  # first: it lives, whether that can be written down or not
        self._ledger.write(entry)
        logger.info("run %s (%s) starts on %s, process %d", entry.run_id, entry.run_name, entry.tag, process.pid)
