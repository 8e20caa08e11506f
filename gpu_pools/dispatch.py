"""One host's share of the pool: starts what may start, says why the rest waits, and leaves nothing half ended."""

import logging
import os
import time
from collections.abc import Callable, Sequence

import httpx
from prefect.client.schemas.objects import StateType

from gpu_pools import launch, supervise
from gpu_pools.asked import environment_of, refuses, time_limit_s
from gpu_pools.cleaner import Cleaner
from gpu_pools.hostview import HostView, Queues
from gpu_pools.lease import Lease
from gpu_pools.ledger import Entry, Ledger
from gpu_pools.placement import Refuse, Start, Wait, place
from gpu_pools.queues import Queue, parse_queue
from gpu_pools.ready import Ready
from gpu_pools.server import Run, Server, ended, waiting
from gpu_pools.undertaker import Undertaker
from gpu_pools.waitlist import WaitList
from tasks.errors import ConfigError, StorageError, TrainyardError
from tasks.workspace import run_dir

logger = logging.getLogger("trainyard.worker")

HEARTBEAT_S = 15.0
SENTENCE_EVERY_S = 10.0  # a waiting run's state is written at most so often
INTRUDERS_EVERY_S = 10.0
_SENTENCES_PER_TICK = 20


class Dispatcher:
    """Call `tick` about twice a second.

    Args:
        name: of the worker, HOST or HOST:NAME, by which the others know what hosts there are.
        server: Prefect's.
        host: this host's devices.
        ledger: what has been started.
        clock: Unix seconds.
    """

    def __init__(
        self, name: str, server: Server, host: HostView, ledger: Ledger, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.name, self._server, self._host, self._clock = name, server, host, clock
        self._ledger = ledger
        self._ready = Ready()
        self._runs = Undertaker(server, ledger, clock)
        self._waitlist = WaitList(server, clock)
        self._cleaner = Cleaner(server, clock)
        self._said: dict[str, tuple[str, float]] = {}
        self._beat = self._looked_at = float("-inf")
        self._noted: set[tuple[str, str]] = set()
        self._draining = False
        self._complained = False

    @property
    def active(self) -> list[Entry]:
        """Return the runs this worker takes care of."""
        return self._runs.entries()

    @property
    def busy(self) -> bool:
        """Return whether anything is left to be brought to its end."""
        return self._runs.busy

    def close(self) -> None:
        """Let another worker take over what is left."""
        self._ready.close()
        self._ledger.close()

    def drain(self) -> None:
        """Start nothing more; pipelines, which wait for runs that will not start, go back to the queue."""
        self._draining = True
        for entry in self.active:
            if parse_queue(entry.queue).kind == "pipeline":
                self._runs.end(entry.run_id, "stop")

    def stop_runs(self) -> None:
        """Let every run save its state and end, and put it back into its queue."""
        self._draining = True
        for entry in self.active:
            self._runs.end(entry.run_id, "stop")

    def tick(self) -> None:
        """Do once whatever is to be done now; a server that does not answer is asked again at the next tick."""
        try:
            self._runs.collect()
            self._heartbeat()
            if not self._draining:
                self._place()
                self._ready.refill()
            self._note_intruders()
            self._cleaner.look()
            if self._complained:
                logger.info("all goes on")
                self._complained = False
        except httpx.HTTPError as exc:
            refused = isinstance(exc, httpx.HTTPStatusError) and exc.response.status_code < 500
            what = "refuses" if refused else "does not answer"
            self._complain(f"Prefect's server {what} ({exc}); runs go on, nothing starts")
        except StorageError as exc:
            self._complain(f"{exc}; runs go on, nothing starts")

    def _complain(self, text: str) -> None:
        if not self._complained:
            logger.warning("%s", text)
            self._complained = True

    def _heartbeat(self) -> None:
        if self._clock() - self._beat >= HEARTBEAT_S:
            self._server.heartbeat(self.name, HEARTBEAT_S)
            self._beat = self._clock()

    def _note_intruders(self) -> None:
        """Write on a run that something else computes on its GPU: its times and its memory are not its own then."""
        if self._clock() - self._looked_at < INTRUDERS_EVERY_S:
            return
        self._looked_at = self._clock()
        intruders = self._host.intruders() if self.active else {}
        for entry in self.active:
            for process, where in intruders.get(entry.run_id, []):
                if (entry.run_id, process) not in self._noted:
                    self._noted.add((entry.run_id, process))
                    self._server.add_tag(entry.run_id, f"GPU shared with process {process}{where}")
                    logger.warning("run %s shares %s with process %s", entry.run_id, entry.tag, process)

    def _place(self) -> None:
        due = [run for run in self._waitlist.read() if self._runs.get(run.id) is None]
        if not due:
            return
        mine, queues = [], self._host.queues(self._server)
        waits: list[tuple[Run, Wait]] = []
        for run in due:
            try:
                queue = parse_queue(run.queue)
            except ConfigError as exc:
                self._refuse(run, str(exc))
                continue
            if self._host.serves(queue):
                mine.append((run, queue))
                continue
            known, text = self._host.known_host(queue, self._server)
            if not known:
                self._refuse(run, text)
            elif text:
                waits.append((run, Wait(run.id, text)))
        decisions = self._decisions(mine, queues) if mine else []
        self._tell_news([*waits, *decisions], len(due))
        for gone in self._said.keys() - {run.id for run in due}:
            del self._said[gone]

    def _decisions(self, mine: list[tuple[Run, Queue]], queues: Queues) -> list[tuple[Run, Wait | Refuse]]:
        """Start what may start; return why the rest does not."""
        devices = self._host.devices(queues)
        starting = {holder.run_id for device in devices for holder in device.holders}  # by another worker, just now
        runs = {run.id: (run, queue) for run, queue in mine if run.id not in starting}
        asked = [self._host.asks(run, queue) for run, queue in runs.values()]
        room = self._host.pool_room(self._server)
        left: list[tuple[Run, Wait | Refuse]] = []
        for decision in place(asked, devices, host=self._host.name, now=self._clock()):
            run, queue = runs[decision.run_id]
            match decision:
                case Start(uuid=uuid) if room.take(queue):
                    self._start(run, uuid, queues)
                case Start():
                    left.append((run, Wait(run.id, room.reason)))
                case Refuse():
                    missing = self._host.elsewhere(queue, queues, self._server)
                    if missing is None:
                        left.append((run, decision))
                    elif missing:
                        left.append((run, Wait(run.id, missing)))
                case Wait():
                    left.append((run, decision))
        return left

    def _tell_news(self, decisions: Sequence[tuple[Run, Wait | Refuse]], n_waiting: int) -> None:
        news = [
            (run, decision)
            for run, decision in decisions
            if isinstance(decision, Refuse) or refuses(run) or self._is_news(run, decision, n_waiting)
        ]
        self._tell(news[:_SENTENCES_PER_TICK])

    def _refuse(self, run: Run, reason: str) -> None:
        self._waitlist.drop(run.id)
        known = self._server.by_id([run.id])
        if run.id not in known or known[run.id].state not in {"SCHEDULED", "PENDING"}:
            return  # cancelled meanwhile
        logger.warning("run %s (%s): %s", run.id, run.name, reason)
        self._server.force(run.id, ended(StateType.FAILED, "Failed", reason))

    def _is_news(self, run: Run, decision: Wait, n_waiting: int) -> bool:
        """Return whether a waiting run says something else than it should, and has said so for a while."""
        text, when = self._said.get(run.id, (run.message if run.state_name == "Waiting" else "", 0.0))
        # A thousand runs that wait must not keep the server busy with the minutes of the one they wait for.
        return text != decision.reason and self._clock() - when >= max(SENTENCE_EVERY_S, 0.2 * n_waiting)

    def _tell(self, telling: list[tuple[Run, Wait | Refuse]]) -> None:
        """Write on runs why they wait, or that they will not run."""
        # What was read some time ago may have been cancelled since: written over, it would be alive again.
        known = self._server.by_id([run.id for run, _ in telling])
        for run, decision in telling:
            if run.id not in known or known[run.id].state != "SCHEDULED":
                self._waitlist.drop(run.id)
            elif isinstance(decision, Refuse):
                self._refuse(run, decision.reason)
            elif refuses(run):
                text = f"refused: {decision.reason}"
                self._server.propose(run.id, ended(StateType.CANCELLED, "Cancelled", text))
                self._waitlist.drop(run.id)
            else:
                self._server.propose(run.id, waiting(decision.reason, run.since))
                self._said[run.id] = (decision.reason, self._clock())

    def _start(self, run: Run, uuid: str, queues: Queues) -> None:
        """Take a slot, claim the run, start its process, in this order: each can fail without a trace."""
        try:
            limit_s = time_limit_s(run)
        except ConfigError as exc:
            self._refuse(run, f"time_limit: {exc}")
            return
        lease = run_lock = None
        try:
            lease = self._host.take(self._host.asks(run, parse_queue(run.queue)), uuid, queues)
            if lease is None:
                return  # somebody else was faster
            run_lock = launch.lock_run(run.id)
            if run_lock is None:
                lease.release()  # a process of it still lives
                return
            attempt, spent_s = launch.read_attempt(run.id)
            entry = Entry(
                *(run.id, run.name, lease.holder.owner, run.queue, lease.holder.device, uuid, lease.holder.number),
                phase="claimed",
                attempt=attempt,
                began=self._clock(),
                limit_s=limit_s,
                spent_s=spent_s,
            )
            try:
                self._launch(run, entry, lease, run_lock)
            except httpx.HTTPError:  # claimed or not, the server knows; found out when it answers
                lease.release()
                self._runs.add(entry, None, None)
                raise
            self._waitlist.drop(run.id)
        except TrainyardError as exc:  # its own folder cannot be written, say
            if self._runs.get(run.id) is not None:
                raise  # it has its process
            if lease is not None:
                lease.release()
            self._ledger.remove(run.id)
            self._refuse(run, str(exc))
        finally:
            if run_lock is not None:
                os.close(run_lock)

    def _launch(self, run: Run, entry: Entry, lease: Lease, run_lock: int) -> None:
        # The run's lock is held: who ran it meanwhile has ended, and said so. Prefect would start it once more.
        known = self._server.by_id([run.id])
        if run.id not in known or known[run.id].state != "SCHEDULED":
            lease.release()
            return
        self._ledger.write(entry)  # before the claim: a worker killed in between is found out by it
        claim = self._server.propose(run.id, ended(StateType.PENDING, "Pending", f"starts on {entry.tag}"))
        if claim is None:
            lease.release()
            self._ledger.remove(entry.run_id)
            return
        deployment = self._server.deployment(run.deployment)
        env = launch.process_environment(
            entry,
            lease,
            self._host.device(entry.uuid),
            entrypoint=deployment.entrypoint,
            extra={**environment_of(deployment.variables), **environment_of(run.job_variables)},
            threads=self._host.threads,
        )
        folder, output = run_dir(run.id), launch.output_file(run.id)
        process = self._ready.give(run.id, claim, env=env, folder=folder, output=output, fds=(lease.run_fd, run_lock))
        lease.record(pid=process.pid)
        lease.hand_over()
        os.ftruncate(run_lock, 0)
        os.pwrite(run_lock, str(process.pid).encode(), 0)
        entry = entry.but(phase="running", pid=process.pid, create_time=supervise.create_time(process.pid))
        self._runs.add(entry, lease, process)  # first: it lives, whether that can be written down or not
        self._ledger.write(entry)
        logger.info("run %s (%s) starts on %s, process %d", run.id, run.name, entry.tag, process.pid)
