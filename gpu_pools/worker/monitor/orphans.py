"""Finds runs that nobody looks after, because their worker is gone, or their host."""

import logging
from collections.abc import Callable, Container, Iterable, Iterator

from gpu_pools.names import by_host, host_name
from gpu_pools.placement.queues import parse_queue
from gpu_pools.prefect_client import WAITING, PoolClient, Run
from gpu_pools.process import run_setup
from gpu_pools.slots.ledger import Entry, Ledger
from gpu_pools.worker.monitor.lost_hosts import LostHosts
from gpu_pools.worker.monitor.monitored_run import MonitoredRun

logger = logging.getLogger("trainyard.worker")


class Orphans:
    """Finds them; whoever asks looks after what is found as after any other run.

    Args:
        client: of Prefect's server.
        ledger: of this worker.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._client, self._ledger, self._clock = client, ledger, clock
        self._lost = LostHosts(client, clock)

    def of_dead_workers(self) -> Iterator[MonitoredRun]:
        """Yield the runs of workers of this host that are gone; their entries are in this worker's ledger then."""
        return self._taken(self._ledger.take_over())

    def of_dead_hosts(self) -> Iterator[MonitoredRun]:
        """Yield the runs of hosts on this home that no worker has been heard of lately, and that have no process left.

        A host that is only cut off from the server has processes that hold the locks of its runs, which are on the
        home that all share: those stay its own.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        online = by_host(self._client.workers())
        found = self._ledger.take_over_from_hosts(lambda host: not online.get(host, False), run_setup.run_is_dead)
        return self._taken(found)

    def of_lost_hosts(self, known: Container[str]) -> Iterator[MonitoredRun]:
        """Yield the runs of hosts that nothing was heard of for long, where hosts share no disk.

        Args:
            known: the ids of the runs that this worker looks after.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        if not (lost := self._lost.look()):
            return
        for run in self._client.in_state("RUNNING", "PENDING", "CANCELLING"):
            if run.id not in known and host_of(run) in lost:
                logger.warning("run %s (%s) was on %s, which is lost", run.id, run.name, host_of(run))
                yield self._adopted(run)

    def moved(self, runs: Iterable[MonitoredRun]) -> Iterator[MonitoredRun]:
        """Yield, of the runs of this host, those that another one took over, which took this one for lost.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        if not self._lost.may_be:
            return
        # One of an earlier worker has no process that this one has started; that worker has told the server of it. One
        # that this host has just taken over itself has none at all.
        own = [run for run in runs if run.entry.pid is not None]
        told = {run.id: run for run in own if run.announced or run.process is None}
        for found in self._client.by_id(list(told)).values():
            elsewhere = host_of(found) not in ("", host_name())
            if elsewhere or (found.state_name == WAITING and told[found.id].alive()):
                yield told[found.id]

    def _taken(self, entries: Iterable[Entry]) -> Iterator[MonitoredRun]:
        for entry in entries:
            logger.info("takes over run %s (%s)", entry.run_id, entry.run_name)
            yield MonitoredRun(entry)

    def running(self, known: Container[str]) -> Iterator[MonitoredRun]:
        """Yield what the server has as running here though no process of it is left, and no ledger knows of it.

        Args:
            known: the ids of the runs that this worker looks after.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        for run in self._client.in_state("RUNNING", "PENDING"):
            if run.id not in known and not self._ledger.knows(run.id) and self._is_dead_here(run):
                logger.warning("run %s (%s) has no process", run.id, run.name)
                yield self._adopted(run)

    def cancelled(self, cancelling: Iterable[Run]) -> Iterator[MonitoredRun]:
        """Yield, of cancelled runs that this worker does not look after, those that waited for their next attempt."""
        for run in cancelling:
            if self._is_dead_here(run):
                yield self._adopted(run)

    def _is_dead_here(self, run: Run) -> bool:
        return run.infrastructure.startswith(f"{self._ledger.place}:") and run_setup.run_is_dead(run.id)

    def _adopted(self, run: Run) -> MonitoredRun:
        attempt, _ = run_setup.read_attempt(run.id)
        device = parse_queue(run.queue).device
        return MonitoredRun(
            Entry(*(run.id, run.name, "", run.queue, device, "", -1, "running", attempt, self._clock()))
        )


def host_of(run: Run) -> str:
    """Return the host on which a run last had a process, empty for none."""
    return run.infrastructure.partition(":")[0].partition(".")[0]
