"""Runs on this host from their start to their last state: cancelled, out of time, died, or ended by themselves."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable

from gpu_pools.names import host_name
from gpu_pools.placement.queues import duration_text, parse_queue
from gpu_pools.prefect_client import PoolClient, Run
from gpu_pools.process import run_process, run_setup
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Ending, Entry, Ledger
from gpu_pools.worker.final_state import final_state
from gpu_pools.worker.monitored_run import MonitoredRun, kill, members
from gpu_pools.worker.set_final_state import set_final_state

logger = logging.getLogger("trainyard.worker")

INTERRUPT_S = 6.0  # from the request to end to the kill of all that is left
CHECKPOINT_S = 120.0  # the same, for a run that saves its state first
_ORPHANS_EVERY_S = 20.0
_TAKE_OVER_EVERY_S = 5.0
_CANCELLING_EVERY_S = 1.0
_KNOWN_EVERY_S = 3.0
_OVER_S = {"CANCELLED": 3.0, "COMPLETED": 60.0, "FAILED": 60.0}
"""How long a process may go on once its run is over: it writes its last state itself, and then sends what is left."""

_CLOSE_AGAIN_S = 30.0
_KEPT_S = 10.0  # a slot waits so long for the word of the server on whose run it was

# What MLflow calls the end of a run that could not say so itself.
_MLFLOW = {"cancelled": "KILLED", "timed out": "KILLED", "crashed": "FAILED"}


class RunMonitor:
    """Takes over what an earlier worker left, and brings every run of the ledger to its end.

    Args:
        client: of Prefect's server.
        ledger: what has been started.
        kept: has the slots of runs that died, until they start again.
        on_return: is told the id of every run that was put back into its queue.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: PoolClient,
        ledger: Ledger,
        kept: KeptSlots,
        on_return: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._ledger, self._kept, self._on_return, self._clock = client, ledger, kept, on_return, clock
        self._care = {entry.run_id: MonitoredRun(entry, None, None) for entry in ledger.entries()}
        self._orphans_at = self._taken_at = self._cancelling_at = self._known_at = float("-inf")

    def entries(self) -> list[Entry]:
        """Return the runs that have, or may have, a process."""
        return [care.entry for care in self._care.values() if not care.closing]

    @property
    def busy(self) -> bool:
        """Return whether anything is in care, the closing of books included."""
        return bool(self._care)

    def get(self, run_id: str) -> Entry | None:
        """Return the entry of a run in care."""
        care = self._care.get(run_id)
        return care.entry if care and not care.closing else None

    def add(self, entry: Entry, lease: Lease | None, process: subprocess.Popen[bytes] | None) -> None:
        """Take a run into care."""
        self._care[entry.run_id] = MonitoredRun(entry, lease, process)

    def end(self, run_id: str, ending: Ending, reason: str = "") -> None:
        """Ask a run to end; the first reason given counts, but that to go on later gives way to any other."""
        care = self._care[run_id]
        if care.closing or care.entry.ending == ending or care.entry.ending not in (None, "stop"):
            return
        care.entry = care.entry.but(ending=ending, reason=reason)
        self._ledger.write(care.entry)
        care.asked_at = self._clock()
        logger.info("run %s is asked to end: %s", run_id, reason or ending)
        if ending == "stop":
            run_setup.stop_file(run_id).touch()
        elif care.entry.pid is not None and self._alive(care):
            run_process.interrupt(care.entry.pid)

    def collect(self) -> None:
        """Look at every run in care once.

        Raises:
            httpx.HTTPError: the server does not answer; the next call goes on.
        """
        now = self._clock()
        if now - self._taken_at >= _TAKE_OVER_EVERY_S:
            for entry in self._ledger.take_over():
                logger.info("takes over run %s (%s)", entry.run_id, entry.run_name)
                self._care.setdefault(entry.run_id, MonitoredRun(entry, None, None))
            self._taken_at = now
        for care in list(self._care.values()):
            self._watch_clock(care)
        gone = [care for care in list(self._care.values()) if care.closing or self._is_gone(care)]
        for care in gone:  # frees the slots, server or not; that of a run that may have died, when that is known
            care.gone_at = care.gone_at or now
            if care.closing or care.entry.ending or care.exit_code == 0 or now - care.gone_at > _KEPT_S:
                self._free(care)
        if now - self._cancelling_at >= _CANCELLING_EVERY_S:
            self._cancel(self._client.in_state("CANCELLING"))
            self._cancelling_at = now
        if now - self._known_at >= _KNOWN_EVERY_S:
            self._end_what_is_over()
            self._known_at = now
        self._settle([care for care in gone if not care.closing])
        for care in [care for care in gone if care.closing]:
            self._close(care)
        self._tell()
        if now - self._orphans_at >= _ORPHANS_EVERY_S:
            self._orphans()
            self._orphans_at = now

    def _watch_clock(self, care: MonitoredRun) -> None:
        """End what is over its time; kill what was asked to end and does not."""
        entry, now = care.entry, self._clock()
        if care.closing:
            return
        if entry.ending is None:
            if entry.limit_s is not None and entry.spent_s + now - entry.began > entry.limit_s:
                text = f"stopped after {duration_text(entry.limit_s)}, its time limit; what it saved is kept"
                self.end(entry.run_id, "time limit", text)
            return
        if care.asked_at is None:  # asked by a worker that is gone
            care.asked_at = now
        saves = entry.ending == "stop" and parse_queue(entry.queue).kind == "training"
        patience = CHECKPOINT_S if saves else 0.0 if entry.ending == "stop" else INTERRUPT_S
        if now - care.asked_at >= patience:
            kill(entry)

    def _alive(self, care: MonitoredRun) -> bool:
        if care.process is not None:
            care.exit_code = care.process.poll()
            return care.exit_code is None
        pid = care.entry.pid
        return pid is not None and run_process.alive(pid, care.entry.create_time)

    def _is_gone(self, care: MonitoredRun) -> bool:
        """Return whether no process of the run is left; the stragglers of an ended one are killed."""
        if self._alive(care):
            return False
        left = members(care.entry)
        if not left and run_setup.run_is_dead(care.entry.run_id):
            return True
        main = [p for p in left if "gpu_pools.process.run_main" in run_process.command_line(p)]
        if main and care.entry.pid is None:  # a worker was killed between the start and its note of it
            pid = main[0].pid
            care.entry = care.entry.but(phase="running", pid=pid, create_time=run_process.create_time(pid))
            self._ledger.write(care.entry)
        else:
            kill(care.entry)
        return False

    def _free(self, care: MonitoredRun) -> None:
        if care.lease is not None:
            care.lease.release()
            care.lease = None

    def _cancel(self, cancelling: list[Run]) -> None:
        for run in cancelling:
            care = self._care.get(run.id)
            if care is not None:
                self.end(run.id, "cancel", "cancelled")
            elif self._is_ours(run) and run_setup.run_is_dead(run.id):
                self._adopt(run)  # it waited for its next attempt

    def _end_what_is_over(self) -> None:
        """End processes whose run was deleted, or was given a last state by somebody else."""
        living = [care for care in self._care.values() if not care.closing and care.entry.ending != "cancel"]
        known, now = self._client.by_id([care.entry.run_id for care in living]), self._clock()
        for care in living:
            run = known.get(care.entry.run_id)
            if run is None:
                self.end(care.entry.run_id, "cancel", "the run was deleted")
            elif run.state not in _OVER_S:
                care.over_since = None
            else:
                care.over_since = care.over_since or now
                if now - care.over_since >= _OVER_S[run.state]:
                    self.end(care.entry.run_id, "cancel", f"the run is {run.state_name} already")

    def _settle(self, gone: list[MonitoredRun]) -> None:
        known = self._client.by_id([care.entry.run_id for care in gone])
        for care in gone:
            entry = care.entry
            run = known.get(entry.run_id)
            if run is None:  # deleted
                run_setup.sweep(entry.run_id)
                self._begin_closing(care, _MLFLOW["cancelled"])
                continue
            state = final_state(
                run.state,
                phase=entry.phase,
                attempt=entry.attempt,
                ending=entry.ending,
                reason=entry.reason,
                exit_code=care.exit_code,
            )
            logger.info(
                "run %s (%s) has ended on %s: %s %s",
                *(entry.run_id, entry.run_name, entry.tag, run.state_name, state.message),
            )
            if state.outcome != "waits":
                run_setup.forget_attempts(entry.run_id)  # a person's retry has all of its attempts again
            set_final_state(self._client, run, state, entry)
            self._give_back(care, again=state.outcome == "waits")
            self._begin_closing(care, _MLFLOW.get(state.outcome))

    def _give_back(self, care: MonitoredRun, *, again: bool) -> None:
        """Keep the slot of a run that died and is to start again."""
        if again:
            self._on_return(care.entry.run_id)
        if again and care.entry.ending is None and care.entry.uuid:
            self._kept.keep(care.entry.run_id, care.entry.uuid, care.lease)
            care.lease = None

    def _begin_closing(self, care: MonitoredRun, status: str | None) -> None:
        self._free(care)
        if status is None:
            self._drop(care)
            return
        care.entry = care.entry.but(phase="closing", reason=status)
        care.process = None
        self._ledger.write(care.entry)
        self._close(care)

    def _close(self, care: MonitoredRun) -> None:
        """Let MLflow know; in a process of its own, as that takes seconds and a library that is not for a worker."""
        if care.process is not None:
            code = care.process.poll()
            if code is None:
                return
            care.process = None
            if code == 0:
                self._drop(care)
                return
            care.not_before = self._clock() + _CLOSE_AGAIN_S
        if self._clock() >= care.not_before:
            folder = run_setup.files_of(care.entry.run_id)
            argv = [sys.executable, "-m", "tasks.tracking.dead_run_cleanup", str(folder), care.entry.reason]
            care.process = run_process.start(argv, os.environ, folder, folder / "output.log", ())

    def _drop(self, care: MonitoredRun) -> None:
        self._ledger.remove(care.entry.run_id)
        self._care.pop(care.entry.run_id, None)

    def _tell(self) -> None:
        for care in self._care.values():
            if not care.told and care.entry.pid is not None and not care.closing:
                self._client.set_infrastructure(care.entry.run_id, f"{self._ledger.place}:{care.entry.pid}")
                self._client.set_device(care.entry.run_id, host_name(), care.entry.tag)
                care.told = True

    def _orphans(self) -> None:
        """Settle what the server believes to run here and no ledger knows of."""
        for run in self._client.in_state("RUNNING", "PENDING"):
            known = run.id in self._care or self._ledger.knows(run.id)
            if known or not self._is_ours(run) or not run_setup.run_is_dead(run.id):
                continue
            logger.warning("run %s (%s) has no process", run.id, run.name)
            self._adopt(run)

    def _adopt(self, run: Run) -> None:
        """Take a run into care that no ledger knows of: it is settled, and MLflow told, as any other."""
        now, (attempt, _) = self._clock(), run_setup.read_attempt(run.id)
        device = parse_queue(run.queue).device
        self.add(Entry(*(run.id, run.name, "", run.queue, device, "", -1, "running", attempt, now)), None, None)

    def _is_ours(self, run: Run) -> bool:
        return run.infrastructure.startswith(f"{self._ledger.place}:")
