"""Watches the runs of this host, and frees or keeps their slots, until Prefect and MLflow know how they ended.

Two words are used throughout: a process *exits*, and a run *ends*, when Prefect has its last state. A run whose process
has exited need not have ended: it may go back into its queue, and start again from its checkpoint.
"""

import logging
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence

from gpu_pools.names import host_name
from gpu_pools.periodic import Periodic
from gpu_pools.prefect_client import PoolClient, Run
from gpu_pools.process import run_setup
from gpu_pools.sharing.memory_peaks import forecast_labels
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Ending, Entry, Ledger
from gpu_pools.transfer.transfers import Transfers
from gpu_pools.worker.monitor.end_requests import EndRequests
from gpu_pools.worker.monitor.final_state import FinalState, Outcome, final_state
from gpu_pools.worker.monitor.mlflow_end import MlflowEnd, mlflow_status
from gpu_pools.worker.monitor.monitored_run import MonitoredRun
from gpu_pools.worker.monitor.orphans import Orphans
from gpu_pools.worker.monitor.set_final_state import set_final_state
from tasks.base.workspace import run_path

logger = logging.getLogger("trainyard.worker")

_ORPHANS_EVERY_S = 20.0
_TAKE_OVER_EVERY_S = 5.0
_HOSTS_EVERY_S = 30.0
_CANCELLED_EVERY_S, _ALL_CANCELLED_EVERY_S = 1.0, 10.0  # the latter for those whose next attempt is not due yet
_SERVER_EVERY_S = 3.0
_SENT = (0, run_setup.EXIT_SUPERSEDED)  # a process that ended so has sent its files itself, or may not any more
_KEPT_S = 10.0  # a slot waits so long for the word of the server on whose run it was


class RunMonitor:
    """Takes over what an earlier worker left, and brings every run of the ledger to its end.

    Args:
        client: of Prefect's server.
        ledger: what has been started.
        kept: has the slots of runs that died, until they start again.
        on_return: is told the id of every run that was put back into its queue.
        clock: Unix seconds.
        ends_mlflow: off: whoever takes the ledger over tells MLflow how runs have ended.
        transfers: sends what a run has left that could not do so itself.
        cancelling: returns the runs that are being cancelled and were due; None: the server is asked each second.
    """

    def __init__(
        self,
        client: PoolClient,
        ledger: Ledger,
        kept: KeptSlots,
        on_return: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        *,
        ends_mlflow: bool = True,
        transfers: Transfers | None = None,
        cancelling: Callable[[], Sequence[Run]] | None = None,
    ) -> None:
        self._client, self._ledger, self._kept, self._on_return, self._clock = client, ledger, kept, on_return, clock
        self._runs = {entry.run_id: MonitoredRun(entry) for entry in ledger.entries()}
        self._exited: list[MonitoredRun] = []
        self._transfers = transfers
        self._freed: dict[tuple[str, str, int], float] = {}  # by uuid, kind and number of the slot
        self._ends = EndRequests(client, ledger, clock)
        self._orphans = Orphans(client, ledger, clock)
        self._mlflow = MlflowEnd(clock)
        # The first four ask the server nothing: time limits hold and slots become free also while it is away. The
        # first of the others that gets no answer ends the tick, and the next tick begins anew.
        self._duties: tuple[Callable[[], None], ...] = (
            # First, so that all that follows is done for the runs of a dead worker, too.
            Periodic(self._take_over, _TAKE_OVER_EVERY_S, clock),
            Periodic(self._let_go, _TAKE_OVER_EVERY_S, clock),
            # Before it is seen who has exited: what died after its time was up is not started again.
            self._enforce_ends,
            self._find_exited,
            self._free_slots,
            # Before anything is told of runs: those that go on elsewhere are no business of this host any more.
            Periodic(self._let_go_moved, _TAKE_OVER_EVERY_S, clock),
            # Before last states are written, as that takes several requests a run: a cancel does not wait for them.
            *([lambda: self._end_cancelled(cancelling())] if cancelling else []),
            Periodic(self._read_cancelled, _ALL_CANCELLED_EVERY_S if cancelling else _CANCELLED_EVERY_S, clock),
            Periodic(self._follow_server, _SERVER_EVERY_S, clock),
            # Reads the states once more: what has exited may have been cancelled just before.
            self._set_final_states,
            # After Prefect's: a run that starts again goes on with its MLflow run, which must not be ended.
            *([self._end_in_mlflow] if ends_mlflow else []),
            # After both: a process that has exited already needs no announcement.
            self._announce,
            # Last: runs that have ended above are no longer among those that the server has as running.
            Periodic(self._find_orphans, _ORPHANS_EVERY_S, clock),
            Periodic(self._find_dead_hosts, _HOSTS_EVERY_S, clock),
        )

    def entries(self) -> list[Entry]:
        """Return the runs that have, or may have, a process."""
        return [run.entry for run in self._not_ended()]

    @property
    def busy(self) -> bool:
        """Return whether anything is left to do, for MLflow, too."""
        return bool(self._runs)

    def get(self, run_id: str) -> Entry | None:
        """Return the entry of a run that has, or may have, a process."""
        run = self._runs.get(run_id)
        return run.entry if run and not run.ended else None

    def add(self, entry: Entry, lease: Lease | None, process: subprocess.Popen[bytes] | None) -> None:
        """Watch a run from now on."""
        self._runs[entry.run_id] = MonitoredRun(entry, lease, process)

    def freed_at(self, run_id: str) -> float | None:
        """Return when those before it had left the slots that a run has just got; None: no run of this worker had any.

        Asked once: who starts on the slot next is another one.
        """
        lease = self._runs[run_id].lease if run_id in self._runs else None
        freed = [self._freed.pop(slot, None) for slot in _slots(lease)] if lease else []
        return max((at for at in freed if at is not None), default=None)

    def tell_mlflow(self, run_id: str, run_name: str, outcome: Outcome) -> None:
        """Let MLflow know how a run in a terminal has ended that could not say so, if its files are in this home."""
        if run_path(run_id) is not None:
            reason = mlflow_status(outcome) or ""
            entry = Entry(*(run_id, run_name, "", "", "", "", -1, "closing", 1, self._clock()), reason=reason)
            self._ledger.write(entry)
            self._watch([MonitoredRun(entry)])

    def request_end(self, run_id: str, ending: Ending, reason: str = "") -> None:
        """Ask a run to end; the first reason given counts, but that to go on later gives way to any other."""
        self._ends.request(self._runs[run_id], ending, reason)

    def tick(self) -> None:
        """Do once what is to be done for the runs.

        Raises:
            httpx.HTTPError: the server does not answer; the next call goes on.
        """
        for duty in self._duties:
            duty()

    def _not_ended(self) -> list[MonitoredRun]:
        return [run for run in self._runs.values() if not run.ended]

    def _take_over(self) -> None:
        self._watch(self._orphans.of_dead_workers())

    def _let_go(self) -> None:
        """End what is left of runs that another host took over, when this one was taken for dead."""
        for run in [run for run in self._runs.values() if self._ledger.lost(run.id)]:
            self._give_up(run)
            self._runs.pop(run.id)

    def _let_go_moved(self) -> None:
        """The same where hosts share no disk: the server alone knows it."""
        for run in list(self._orphans.moved(self._not_ended())):
            self._give_up(run)
            self._forget(run)
            self._exited = [other for other in self._exited if other is not run]

    def _give_up(self, run: MonitoredRun) -> None:
        text = "run %s (%s) was taken over by another host: what is left of it here ends"
        logger.warning(text, run.id, run.entry.run_name)
        run.kill()
        self._free(run)

    def _find_dead_hosts(self) -> None:
        self._watch(self._orphans.of_dead_hosts())
        self._watch(self._orphans.of_lost_hosts(self._runs))

    def _watch(self, found: Iterable[MonitoredRun]) -> None:
        for run in found:
            self._runs.setdefault(run.id, run)

    def _enforce_ends(self) -> None:
        for run in self._not_ended():
            self._ends.enforce(run)

    def _find_exited(self) -> None:
        self._exited = []
        for run in self._not_ended():
            before = run.entry
            if run.has_exited():
                run.exited_at = run.exited_at or self._clock()
                self._exited.append(run)
            elif run.entry != before:  # its process was found
                self._ledger.write(run.entry)

    def _free_slots(self) -> None:
        """Free the slots of runs that do not go on; one that was killed waits a while for the server's word on it."""
        for run in self._exited:
            waited_s = self._clock() - (run.exited_at or 0.0)
            if run.entry.ending or run.exit_code == 0 or waited_s > _KEPT_S:
                self._free(run)

    def _free(self, run: MonitoredRun) -> None:
        """Let go of a run's slot, if this worker holds it, and keep in mind since when nothing computes there."""
        if run.lease is not None:
            self._freed |= dict.fromkeys(_slots(run.lease), run.exited_at or self._clock())
        run.release_slot()

    def _read_cancelled(self) -> None:
        self._end_cancelled(self._client.in_state("CANCELLING"))

    def _end_cancelled(self, cancelling: Sequence[Run]) -> None:
        """Ask runs to end that a person has cancelled."""
        for found in cancelling:
            if found.id in self._runs:
                self.request_end(found.id, "cancel", "cancelled")
        self._watch(self._orphans.cancelled(run for run in cancelling if run.id not in self._runs))

    def _follow_server(self) -> None:
        self._ends.follow_server(self._not_ended())

    def _set_final_states(self) -> None:
        known = self._client.by_id([run.id for run in self._exited])
        for run in self._exited:
            found = known.get(run.id)
            if found is None:  # deleted in Prefect
                run_setup.clean_up(run.id)
                self._end(run, mlflow_status("cancelled"))
            else:
                state = self._final_state(run, found)
                self._keep_slot_if_again(run, again=state.outcome == "waits")
                self._end(run, mlflow_status(state.outcome))

    def _final_state(self, run: MonitoredRun, found: Run) -> FinalState:
        """Decide on a run whose process has exited, tell the server, and return the decision."""
        entry = run.entry
        state = final_state(
            found.state,
            phase=entry.phase,
            attempt=entry.attempt,
            ending=entry.ending,
            reason=entry.reason,
            exit_code=run.exit_code,
            word=run_setup.take_word(entry.run_id),
        )
        logger.info(
            "run %s (%s) has ended on %s: %s %s",
            *(entry.run_id, entry.run_name, entry.tag, found.state_name, state.message),
        )
        if state.outcome != "waits":
            run_setup.forget_attempts(entry.run_id)  # a person's retry has all of its attempts again
        set_final_state(self._client, found, state, entry)
        if (
            self._transfers is not None
            and run.exit_code not in (0, run_setup.EXIT_SUPERSEDED)
            and entry.pid is not None
        ):
            self._transfers.send(entry.run_id, run_setup.files_of(entry.run_id).name)
        return state

    def _keep_slot_if_again(self, run: MonitoredRun, *, again: bool) -> None:
        """Keep the slot of a run that died and is to start again; `_end` frees that of any other."""
        if again:
            self._on_return(run.id)
        if again and run.entry.ending is None and run.entry.uuids:
            self._kept.keep(run.id, run.entry.uuids, run.lease)
            run.lease = None

    def _end(self, run: MonitoredRun, status: str | None) -> None:
        """Free the slot of a run that has its last state, or waits; `status`: what MLflow is told, None: nothing."""
        self._free(run)
        if status is None:
            self._forget(run)
        else:
            run.entry = run.entry.but(phase="closing", reason=status)
            self._ledger.write(run.entry)

    def _end_in_mlflow(self) -> None:
        for run in [run for run in self._runs.values() if run.ended]:
            if self._mlflow.is_done(run.entry):
                self._forget(run)

    def _forget(self, run: MonitoredRun) -> None:
        self._ledger.remove(run.id)
        self._runs.pop(run.id, None)

    def _announce(self) -> None:
        """Tell the server where the processes are."""
        for run in self._not_ended():
            if not run.announced and run.entry.pid is not None:
                self._client.set_infrastructure(run.id, f"{self._ledger.place}:{run.entry.pid}")
                expected = forecast_labels(run.lease.holder) if run.lease else {}
                self._client.set_device(run.id, host_name(), run.entry.tag, expected)
                run.announced = True

    def _find_orphans(self) -> None:
        self._watch(self._orphans.running(self._runs))


def _slots(lease: Lease) -> list[tuple[str, str, int]]:
    return [(holder.uuid, holder.kind, holder.number) for holder in lease.holders]
