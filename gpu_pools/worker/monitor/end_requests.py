"""Asks runs to end that are cancelled, deleted or out of time, and kills those that do not.

A run is told to *stop* by a file, when it shall save its state and go on later; to *end* for good by a signal, which
*interrupts* what it does.
"""

import logging
from collections.abc import Callable, Iterable

from gpu_pools.names import host_name, whose
from gpu_pools.placement.queues import duration_text, parse_queue
from gpu_pools.prefect_client import PoolClient
from gpu_pools.process import run_process, run_setup
from gpu_pools.sharing.notices import notify
from gpu_pools.slots.ledger import Ending, Entry, Ledger
from gpu_pools.worker.monitor.monitored_run import MonitoredRun

logger = logging.getLogger("trainyard.worker")

INTERRUPT_S = 6.0  # from the request to end to the kill of all that is left
CHECKPOINT_S = 120.0  # the same, for a run that saves its state first
_WARNED_S, _WARNED_SHARE = 600.0, 0.1  # the owner is told so long before the time limit, or such a part of it
_LAST_STATE_S = {"CANCELLED": 3.0, "COMPLETED": 60.0, "FAILED": 60.0}
"""How long a process may go on once its run has ended: it writes its last state itself, and then sends what is left."""


class EndRequests:
    """Asks runs to end: for a person, for a time limit, or because the server has them as ended.

    Args:
        client: of Prefect's server.
        ledger: keeps the request, for a worker that takes over.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._client, self._ledger, self._clock = client, ledger, clock
        self._warned: set[str] = set()

    def request(self, run: MonitoredRun, ending: Ending, reason: str = "") -> None:
        """Ask a run to end; the first reason given counts, but that to go on later gives way to any other."""
        if run.ended or run.entry.ending == ending or run.entry.ending not in (None, "stop"):
            return
        run.entry = run.entry.but(ending=ending, reason=reason)
        self._ledger.write(run.entry)
        run.end_requested_at = self._clock()
        logger.info("run %s is asked to end: %s", run.id, reason or ending)
        if ending == "stop":
            run_setup.stop_file(run.id).touch()
        elif run.entry.pid is not None and run.alive():
            run_process.interrupt(run.entry.pid)

    def enforce(self, run: MonitoredRun) -> None:
        """Ask a run to end that is over its time limit; kill one that was asked to and does not."""
        entry, now = run.entry, self._clock()
        if entry.ending is None:
            if entry.limit_s is not None:
                self._hold_to_limit(run, entry.limit_s, entry.spent_s + now - entry.began)
            return
        if run.end_requested_at is None:  # asked by a worker that is gone
            run.end_requested_at = now
        if now - run.end_requested_at >= _patience_s(run):
            run.kill()

    def _hold_to_limit(self, run: MonitoredRun, limit_s: float, spent_s: float) -> None:
        left_s = limit_s - spent_s
        if left_s < 0:
            text = f"stopped after {duration_text(limit_s)}, its time limit; what it saved is kept"
            self.request(run, "time limit", text)
        elif left_s < min(_WARNED_S, _WARNED_SHARE * limit_s) and run.id not in self._warned:
            self._warned.add(run.id)
            _warn(run.entry, limit_s, left_s)

    def follow_server(self, runs: Iterable[MonitoredRun]) -> None:
        """Ask runs to end that were deleted, or that somebody else gave a last state.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        living = [run for run in runs if run.entry.ending != "cancel"]
        known, now = self._client.by_id([run.id for run in living]), self._clock()
        for run in living:
            found = known.get(run.id)
            if found is None:
                self.request(run, "cancel", "the run was deleted")
            elif found.state not in _LAST_STATE_S:
                run.ended_on_server_at = None
            else:
                run.ended_on_server_at = run.ended_on_server_at or now
                if now - run.ended_on_server_at >= _LAST_STATE_S[found.state]:
                    self.request(run, "cancel", f"the run is {found.state_name} already")


def _warn(entry: Entry, limit_s: float, left_s: float) -> None:
    """Tell the owner of a run that it will be stopped."""
    notify(
        "stopping-soon",
        f"{entry.run_id}:{limit_s}",
        f"{whose(entry.run_name, entry.owner)} will be stopped in about {duration_text(left_s)}, at its time limit of "
        f"{duration_text(limit_s)}. What it has saved is kept: `yard resume {entry.run_id} --time-limit 2h` goes on.",
        owner=entry.owner,
        run_id=entry.run_id,
        run_name=entry.run_name,
        device=f"{host_name()}/{entry.tag}",
    )


def _patience_s(run: MonitoredRun) -> float:
    """Return how many seconds a run that was asked to end may take: none where it saves nothing before it stops."""
    if run.entry.ending != "stop":
        return INTERRUPT_S
    return CHECKPOINT_S if parse_queue(run.entry.queue).kind == "training" else 0.0
