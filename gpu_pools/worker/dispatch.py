"""One turn of the worker: what it does in which order, and what it does when it stops."""

import logging
import time
from collections.abc import Callable

import httpx

from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.soon import BookingsSoon
from gpu_pools.periodic import Periodic
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import parse_queue
from gpu_pools.placement.rules import yard_policy
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import PoolClient
from gpu_pools.process.terminal_runs import TerminalRuns
from gpu_pools.sharing.host_watch import HostWatch
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.ledger import Entry, Ledger
from gpu_pools.transfer.transfers import Transfers
from gpu_pools.watching.state import WorkerState, worker_state
from gpu_pools.worker.monitor.catch_up import CatchUp
from gpu_pools.worker.monitor.idle_slots import IdleSlots
from gpu_pools.worker.monitor.intruder_tags import IntruderTags
from gpu_pools.worker.monitor.overstays import Overstays
from gpu_pools.worker.monitor.run_monitor import RunMonitor
from gpu_pools.worker.scheduler import Scheduler
from gpu_pools.worker.starter import Starter
from tasks.base.errors import StorageError

logger = logging.getLogger("trainyard.worker")

TICK_S = 0.5
_HOSTS_AT_EVERY_TICK = 8  # a yard of more hosts asks no more often than these would
_BUSY_LOOK_S, _IDLE_LOOK_S = 1.0, 2.0
HEARTBEAT_S = 15.0
INTRUDERS_EVERY_S = 10.0
OVERSTAYS_EVERY_S = 2.0
NOTICES_EVERY_S = 30.0
IDLE_EVERY_S = 20.0
TERMINALS_EVERY_S = 20.0
QUEUES_EVERY_S = 20.0
WAITING_OLD_S = 60.0  # what waits is not known any more, once it was read so long ago


def look_every_s(n_hosts: int, *, busy: bool) -> float:
    """Return for how long at least a worker does not look again what waits; 0: it does at every tick.

    A run for any GPU is seen by the first of many hosts; one for a certain host waits for that one's look, two seconds
    at most. A cancel, and what follows on a run, wait for one second at most.

    Args:
        n_hosts: with a worker that is online.
        busy: the worker has runs, or knows of some that wait.
    """
    shared = TICK_S * n_hosts / _HOSTS_AT_EVERY_TICK
    if shared <= TICK_S:
        return 0.0
    return min(shared, _BUSY_LOOK_S if busy else _IDLE_LOOK_S) - TICK_S / 2  # ticks are not that punctual


class Dispatcher:
    """Call `tick` about twice a second.

    Args:
        name: of the worker, HOST or HOST:NAME, by which the others know what hosts there are.
        client: of Prefect's server.
        host: this host's devices.
        ledger: what has been started.
        clock: Unix seconds.
        watched: somebody reads its `state`.
    """

    def __init__(
        self,
        name: str,
        client: PoolClient,
        host: HostState,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
        watched: bool = False,
    ) -> None:
        self._name, self._client, self._host, self._ledger, self._clock = name, client, host, ledger, clock
        self._waitlist = waitlist = WaitList(client, clock, self._look_every_s)
        self._kept = KeptSlots()
        self._transfers = transfers = Transfers(ledger.place, clock)
        self._monitor = RunMonitor(
            client, ledger, self._kept, waitlist.put_back, clock, transfers=transfers, cancelling=waitlist.cancelling
        )
        self._starter = Starter(client, host, ledger, self._kept, self._monitor, clock)
        bookings, settings = BookingReader(client, host.name, clock), SettingsReader()
        # A reader of its own: it reads only while runs wait, so the first decision on one knows a booking just made.
        policy = yard_policy(client, host.name, BookingReader(client, host.name, clock), settings, clock)
        self._scheduler = Scheduler(
            client, host, waitlist, self._kept, self._monitor, self._starter, policy, transfers, clock
        )
        intruders = IntruderTags(client, host)
        overstays = Overstays(bookings, self._monitor, settings, clock)
        soon = BookingsSoon(bookings, settings, clock)
        idle = IdleSlots(client, self._monitor, get_probe(), settings, clock)
        terminals = TerminalRuns(client, self._monitor.tell_mlflow)
        self._catch_up = CatchUp(clock)
        watch = HostWatch(host)
        self._duties: tuple[Callable[[], None], ...] = (
            # Before what asks the server, which may be away.
            lambda: self._catch_up.look([entry.run_id for entry in self.active]),
            # Before all starts: slots of runs that have exited are free for others, and one that died keeps its slot.
            self._monitor.tick,
            # Before anything starts: whoever looks for this worker finds it.
            Periodic(lambda: client.heartbeat(name, HEARTBEAT_S), HEARTBEAT_S, clock),
            # Before anything starts: a run that makes way is not counted on.
            Periodic(overstays.look, OVERSTAYS_EVERY_S, clock),
            self._start_runs,
            # Last, because no run waits for them.
            Periodic(transfers.look, NOTICES_EVERY_S, clock),
            Periodic(lambda: watch.look(self.active), NOTICES_EVERY_S, clock),
            Periodic(lambda: soon.look(self.active), NOTICES_EVERY_S, clock),
            Periodic(lambda: intruders.look(self.active), INTRUDERS_EVERY_S, clock),
            Periodic(terminals.look, TERMINALS_EVERY_S, clock),
            Periodic(idle.look, IDLE_EVERY_S, clock),
            # Read anyway while something waits; who watches wants to know the limits also while nothing does.
            *([Periodic(self._read_queues, QUEUES_EVERY_S, clock)] if watched else []),
        )
        self._draining = False
        self._complained = self._answered = False

    @property
    def active(self) -> list[Entry]:
        """Return the runs this worker takes care of."""
        return self._monitor.entries()

    @property
    def busy(self) -> bool:
        """Return whether anything is left to be brought to its end."""
        return self._monitor.busy

    def state(self) -> WorkerState:
        """Return what is known now, for another thread; it asks nobody."""
        return worker_state(
            self._host,
            self._name,
            self._clock(),
            waiting=self._waitlist.known(WAITING_OLD_S),
            here=self._client.clock.here,
            answered=self._answered,
            draining=self._draining,
            n_runs=len(self.active),
            gaps=self._scheduler.gaps.tallies(),
        )

    def close(self) -> None:
        """Let another worker take over what is left."""
        self._scheduler.rest()
        self._starter.close()
        self._catch_up.close()
        self._transfers.close()
        self._ledger.close()

    def drain(self) -> None:
        """Start nothing more; pipelines, which wait for runs that will not start, go back to the queue."""
        self._draining = True
        for entry in self.active:
            if parse_queue(entry.queue).kind == "pipeline":
                self._monitor.request_end(entry.run_id, "stop")

    def stop_runs(self) -> None:
        """Let every run save its state and end, and put it back into its queue."""
        self._draining = True
        for entry in self.active:
            self._monitor.request_end(entry.run_id, "stop")

    def tick(self) -> None:
        """Do once whatever is to be done now; a server that does not answer is asked again at the next tick."""
        self._answered = False
        try:
            for duty in self._duties:
                duty()
            self._answered = True
            if self._complained:
                logger.info("all goes on")
                self._complained = False
        except httpx.HTTPError as exc:
            refused = isinstance(exc, httpx.HTTPStatusError) and exc.response.status_code < 500
            what = "refuses" if refused else "does not answer"
            self._complain(f"Prefect's server {what} ({exc}); runs go on, nothing starts")
        except StorageError as exc:
            self._complain(f"{exc}; runs go on, nothing starts")

    def _start_runs(self) -> None:
        if self._draining:
            self._kept.forget_others(())
            self._scheduler.rest()
        else:
            self._scheduler.turn()
            self._starter.prepare()

    def _look_every_s(self) -> float:
        busy = bool(self.active) or bool(self._waitlist.known(WAITING_OLD_S))
        return look_every_s(self._host.n_online(self._client), busy=busy)

    def _read_queues(self) -> None:
        self._host.queues(self._client)

    def _complain(self, text: str) -> None:
        if not self._complained:
            logger.warning("%s", text)
            self._complained = True
