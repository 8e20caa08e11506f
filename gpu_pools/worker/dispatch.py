"""One host's share of the pool: starts what may start, says why the rest waits, and leaves nothing half ended."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import httpx
from prefect.client.schemas.objects import StateType

from gpu_pools.job_variables import time_limit_s
from gpu_pools.placement.host_state import HostState, Queues
from gpu_pools.placement.place import Decision, DeviceState, Refuse, Start, Wait, place
from gpu_pools.placement.queues import Queue, parse_queue
from gpu_pools.placement.sentences import Sentences
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import PoolClient, Run, make_state
from gpu_pools.process import run_process, run_setup
from gpu_pools.process.warm_process import WarmProcess
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Entry, Ledger
from gpu_pools.worker.cleaner import Cleaner
from gpu_pools.worker.permitted import own_entrypoint, run_environment
from gpu_pools.worker.run_monitor import RunMonitor
from tasks.base.errors import ConfigError, StorageError, TrainyardError
from tasks.base.workspace import run_dir

logger = logging.getLogger("trainyard.worker")

HEARTBEAT_S = 15.0
INTRUDERS_EVERY_S = 10.0
_STARTS_S = 2.0  # a turn starts no more runs after that long: who is cancelled or dies meanwhile waits for the next


class Dispatcher:
    """Call `tick` about twice a second.

    Args:
        name: of the worker, HOST or HOST:NAME, by which the others know what hosts there are.
        client: of Prefect's server.
        host: this host's devices.
        ledger: what has been started.
        clock: Unix seconds.
    """

    def __init__(
        self, name: str, client: PoolClient, host: HostState, ledger: Ledger, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.name, self._client, self._host, self._clock = name, client, host, clock
        self._ledger = ledger
        self._warm = WarmProcess()
        self._waitlist = WaitList(client, clock)
        self._kept = KeptSlots()
        self._runs = RunMonitor(client, ledger, self._kept, self._waitlist.put_back, clock)
        self._sentences = Sentences(client, self._waitlist, clock)
        self._cleaner = Cleaner(client, clock)
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
        self._warm.close()
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
            if self._draining:
                self._kept.forget_others(())
            else:
                self._place()
                self._warm.refill()
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
            self._client.heartbeat(self.name, HEARTBEAT_S)
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
                    self._client.add_tag(entry.run_id, f"GPU shared with process {process}{where}")
                    logger.warning("run %s shares %s with process %s", entry.run_id, entry.tag, process)

    def _place(self) -> None:
        due = [run for run in self._waitlist.read() if self._runs.get(run.id) is None]
        if not due:
            self._kept.forget_others(())
            return
        mine = []
        waits: list[tuple[Run, Wait]] = []
        for run in due:
            try:
                queue = parse_queue(run.queue)
            except ConfigError as exc:
                self._sentences.refuse(run, str(exc))
                continue
            if self._host.serves(queue):
                mine.append((run, queue))
                continue
            known, text = self._host.known_host(queue, self._client)
            if not known:
                self._sentences.refuse(run, text)
            elif text:
                waits.append((run, Wait(run.id, text)))
        self._kept.forget_others([run.id for run, _ in mine])
        decisions = self._decisions(mine) if mine else []
        self._sentences.tell([*waits, *decisions], {run.id for run in due})

    def _decisions(self, mine: Sequence[tuple[Run, Queue]]) -> list[tuple[Run, Wait | Refuse]]:
        """Start what may start; return why the rest does not.

        A start takes a while, so each is decided on anew: a limit, a pause, a device that changed meanwhile counts.
        """
        left, until, fresh = list(mine), self._clock() + _STARTS_S, False
        while True:
            queues = self._host.queues(self._client, fresh=fresh)
            decided = self._decide(left, queues)
            room = self._host.pool_room(self._client, fresh=fresh)
            starts = [(run, queue, go) for run, queue, go in decided if isinstance(go, Start)]
            chosen = next(((run, go.uuid) for run, queue, go in starts if room.take(queue)), None)
            if chosen is None or (len(left) < len(mine) and self._clock() > until):
                break
            if fresh:
                self._start(*chosen, queues)
                left = [(run, queue) for run, queue in left if run.id != chosen[0].id]
            fresh = True
        waits = self._reasons(decided, queues)
        if chosen is None:
            waits += [(run, Wait(run.id, room.reason)) for run, _, _ in starts]
        for run, _ in waits:
            self._kept.forget(run.id)
        return waits

    def _decide(self, mine: Sequence[tuple[Run, Queue]], queues: Queues) -> list[tuple[Run, Queue, Decision]]:
        devices = [self._without_kept(device) for device in self._host.devices(queues)]
        starting = {holder.run_id for device in devices for holder in device.holders}  # by another worker, just now
        runs = {run.id: (run, queue) for run, queue in mine if run.id not in starting}
        asked = [replace(self._host.asks(*asks), lost=self._kept.uuid(run_id)) for run_id, asks in runs.items()]
        decisions = place(asked, devices, host=self._host.name, now=self._clock())
        return [(*runs[decision.run_id], decision) for decision in decisions]

    def _without_kept(self, device: DeviceState) -> DeviceState:
        """Return a device without the slots that are kept for dead runs: these ask for them again."""
        return replace(device, holders=tuple(run for run in device.holders if not self._kept.uuid(run.run_id)))

    def _reasons(
        self, decided: Sequence[tuple[Run, Queue, Decision]], queues: Queues
    ) -> list[tuple[Run, Wait | Refuse]]:
        reasons: list[tuple[Run, Wait | Refuse]] = []
        for run, queue, decision in decided:
            match decision:
                case Refuse():
                    missing = self._host.elsewhere(queue, queues, self._client)
                    if missing is None:
                        reasons.append((run, decision))
                    elif missing:
                        reasons.append((run, Wait(run.id, missing)))
                case Wait():
                    reasons.append((run, decision))
        return reasons

    def _start(self, run: Run, uuid: str, queues: Queues) -> None:
        """Take a slot, claim the run, start its process, in this order: each can fail without a trace."""
        try:
            limit_s = time_limit_s(run)
        except ConfigError as exc:
            self._sentences.refuse(run, f"time_limit: {exc}")
            return
        lease = run_lock = None
        try:
            asks = self._host.asks(run, parse_queue(run.queue))
            lease = self._kept.take(run.id, uuid) or self._host.take(asks, uuid, queues)
            if lease is None:
                return  # somebody else was faster
            run_lock = run_setup.lock_run(run.id)
            if run_lock is None:
                lease.release()  # a process of it still lives
                return
            attempt, spent_s = run_setup.read_attempt(run.id)
            entry = Entry(
                *(run.id, run.name, lease.holder.owner, run.queue, lease.holder.device, uuid, lease.holder.number),
                phase="claimed",
                attempt=attempt,
                began=self._clock(),
                limit_s=limit_s,
                spent_s=spent_s,
                priority=asks.priority,
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
            self._sentences.refuse(run, str(exc))
        finally:
            if run_lock is not None:
                os.close(run_lock)

    def _launch(self, run: Run, entry: Entry, lease: Lease, run_lock: int) -> None:
        # The run's lock is held: who ran it meanwhile has ended, and said so. Prefect would start it once more.
        known = self._client.by_id([run.id])
        if run.id not in known or known[run.id].state != "SCHEDULED":
            lease.release()
            return
        deployment = self._client.deployment(run.deployment)
        entrypoint = own_entrypoint(deployment.entrypoint)
        extra = {**run_environment(deployment.variables), **run_environment(run.job_variables)}
        self._ledger.write(entry)  # before the claim: a worker killed in between is found out by it
        claim = self._client.propose(run.id, make_state(StateType.PENDING, "Pending", f"starts on {entry.tag}"))
        if claim is None:
            lease.release()
            self._ledger.remove(entry.run_id)
            return
        device, threads = self._host.device(entry.uuid), self._host.threads
        env = run_setup.process_environment(entry, lease, device, entrypoint=entrypoint, extra=extra, threads=threads)
        folder, output = run_dir(run.id), run_setup.output_file(run.id)
        process = self._warm.give(run.id, claim, env=env, folder=folder, output=output, fds=(lease.run_fd, run_lock))
        lease.record(pid=process.pid)
        lease.hand_over()
        os.ftruncate(run_lock, 0)
        os.pwrite(run_lock, str(process.pid).encode(), 0)
        entry = entry.but(phase="running", pid=process.pid, create_time=run_process.create_time(process.pid))
        self._runs.add(entry, lease, process)  # first: it lives, whether that can be written down or not
        self._ledger.write(entry)
        logger.info("run %s (%s) starts on %s, process %d", run.id, run.name, entry.tag, process.pid)
