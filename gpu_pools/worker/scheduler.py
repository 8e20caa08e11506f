"""Starts waiting runs on this host, and lets the others say why they wait."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from prefect.client.schemas.objects import StateType

from gpu_pools.hosts.board import OfferBoard
from gpu_pools.hosts.team import able_hosts, against_team
from gpu_pools.placement.disk import read_disk
from gpu_pools.placement.host_state import CPU, HostState, PoolRoom, Queues, n_hosts
from gpu_pools.placement.missed import Waited, superseded
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Decision, DeviceState, Refuse, Start, Wait, place
from gpu_pools.placement.queues import Kind, Queue, device_tags, parse_queue
from gpu_pools.placement.rules import Policy
from gpu_pools.placement.sentences import Sentences
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import PoolClient, Run, make_state
from gpu_pools.slots.kept_slots import KeptSlots
from gpu_pools.slots.turns import Turns
from gpu_pools.slots.waiters import Announcement
from gpu_pools.transfer.transfers import Transfers
from gpu_pools.watching.gaps import DispatchGaps
from gpu_pools.worker.monitor.run_monitor import RunMonitor
from gpu_pools.worker.starter import Starter
from tasks.base.errors import ConfigError, TrainyardError
from tasks.store.setting import hosts_share_a_disk

logger = logging.getLogger("trainyard.worker")

_HEAD_START_S = 3.0  # that an idle host has before one that is full; a worker looks about every half second
_STARTS_S = 2.0  # a turn starts no more runs after that long: who is cancelled or dies meanwhile waits for the next


class Scheduler:
    """Call `turn` about twice a second.

    Args:
        client: of Prefect's server.
        host: this host's devices.
        waitlist: the runs that wait.
        kept: slots of runs that died, which start again.
        monitor: knows what has a process.
        starter: starts what `place` says.
        policy: what there is to ask before runs are placed.
        transfers: brings what a run needs, where hosts share no disk.
        clock: Unix seconds.

    Attributes:
        gaps: how long free slots kept runs waiting.
    """

    def __init__(
        self,
        client: PoolClient,
        host: HostState,
        waitlist: WaitList,
        kept: KeptSlots,
        monitor: RunMonitor,
        starter: Starter,
        policy: Policy,
        transfers: Transfers,
        clock: Callable[[], float],
    ) -> None:
        self._client, self._host, self._waitlist, self._kept = client, host, waitlist, kept
        self._monitor, self._starter, self._clock = monitor, starter, clock
        self._sentences = Sentences(client, waitlist, clock)
        self._waited = Waited()
        self._policy, self._transfers = policy, transfers
        self._offers = OfferBoard(client, host.name, clock)
        self.gaps = DispatchGaps()
        self._devices: list[DeviceState] = []  # as the last decision saw them
        self._terminals, self._notice = Turns(("terminal",), clock), Announcement("worker")

    def rest(self) -> None:
        """Start nothing for now: nobody is to leave a slot to what waits here, nor to count on this host.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        self._notice.take_back()
        self._offers.take_back()

    def turn(self) -> None:
        """Start what may start, and let the rest say why it waits.

        Raises:
            httpx.HTTPError: the server does not answer.
            StorageError: a run has started, and cannot be written down.
        """
        due = self._newest_of_schedules([run for run in self._waitlist.read() if self._monitor.get(run.id) is None])
        mine, waits = self._sort_by_host(due)
        mine, fewer = self._sort_by_team(mine)
        self._kept.forget_others([run.id for run, _ in mine])
        decisions = self._start_what_may(mine)
        if due:
            waits = [*waits, *fewer]
            self._sentences.tell([*waits, *decisions], {run.id for run in due})

    def _newest_of_schedules(self, due: Sequence[Run]) -> list[Run]:
        """Return the runs that wait, one of each schedule: those before it are cancelled, as nobody waits for them.

        A laptop that slept, or a yard that was down for a night, would start as many as were missed.
        """
        self._waited.look(due)
        older = superseded(due)
        for run, newest in older:
            text = f"skipped: run {newest.name} of the same schedule was due after it, and stands for both"
            self._client.propose(run.id, make_state(StateType.CANCELLED, "Skipped", text))
            self._waitlist.drop(run.id)
        gone = {run.id for run, _ in older}
        return [run for run in due if run.id not in gone]

    def _sort_by_host(self, due: Sequence[Run]) -> tuple[list[tuple[Run, Queue]], list[tuple[Run, Wait]]]:
        """Return the runs for this host, and those for a host that has no worker now; what is for no host fails."""
        mine: list[tuple[Run, Queue]] = []
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
        return mine, waits

    def _sort_by_team(
        self, mine: Sequence[tuple[Run, Queue]]
    ) -> tuple[list[tuple[Run, Queue]], list[tuple[Run, Wait]]]:
        """Return the runs without those for several hosts that this one is none of; and those for too few online."""
        left: list[tuple[Run, Queue]] = []
        waits: list[tuple[Run, Wait]] = []
        for run, queue in mine:
            if n_hosts(run, queue) == 1:
                left.append((run, queue))
                continue
            asks = self._host.asks(run, queue)
            against, gpus = self._team(asks)
            if isinstance(against, Refuse):
                self._host.look_again()
                against, gpus = self._team(asks)
            match against:
                case Refuse(reason=text):
                    self._sentences.refuse(run, text)
                case Wait() as wait:
                    waits.append((run, wait))
                case _ if self._host.name in able_hosts(asks, gpus):
                    left.append((run, queue))
        return left, waits

    def _team(self, asks: Waiting) -> tuple[Decision | None, Mapping[str, tuple[int, bool]]]:
        """Return why a run cannot start on as many hosts as it needs, None: there are enough; and the GPUs of each."""
        gpus = self._host.gpus_by_host(asks.queue.kind, self._host.queues(self._client), self._client)
        return against_team(asks, gpus, share_a_disk=hosts_share_a_disk()), gpus

    def _start_what_may(self, mine: Sequence[tuple[Run, Queue]]) -> list[tuple[Run, Wait | Refuse]]:
        """Start what may start; return why the rest does not.

        A start takes a while, so each is decided on anew: a limit, a pause, a booking, a device that changed meanwhile
        counts.
        """
        if not mine:
            self.rest()
            return []
        left, until, fresh = list(mine), self._clock() + _STARTS_S, False
        absent: dict[str, tuple[Run, Wait | Refuse]] = {}
        while True:
            queues = self._host.queues(self._client, fresh=fresh)
            if fresh:
                self._policy.renew()
            decided = self._decide(left, queues)
            room = self._host.pool_room(self._client, fresh=fresh)
            starts = [(run, asks, go) for run, asks, go in decided if isinstance(go, Start)]
            later = {run.id for run, asks, _ in starts if self._is_left_to_others(asks)}
            starts = [start for start in starts if start[0].id not in later]
            if missing := self._missing([run for run, _, _ in starts]):
                # What waits for its files takes no slot: others are decided on as if it were not there.
                absent |= missing
                left = [(run, queue) for run, queue in left if run.id not in missing]
                continue
            chosen = next(((run, asks, go) for run, asks, go in starts if self._has_room(asks, room)), None)
            if chosen is None or (len(left) + len(absent) < len(mine) and self._clock() > until):
                break
            if fresh:
                self._start(*chosen, queues)
                left = [(run, queue) for run, queue in left if run.id != chosen[0].id]
            fresh = True
        self._offers.tell([(run, d.offer if isinstance(d, Wait) else None) for run, a, d in decided if a.n_hosts > 1])
        waits = [*self._reasons(decided, queues), *absent.values()]
        if chosen is None:
            waits += [(run, Wait(run.id, room.reason)) for run, _, _ in starts]
        held_up = later | ({run.id for run, _, _ in starts} if chosen is None else set())
        self._notice.say([asks for run, asks, _ in decided if run.id not in held_up])
        for run in [*(run for run, _ in waits), *(run for run, _, decision in decided if isinstance(decision, Wait))]:
            self._kept.forget(run.id)
        return waits

    def _has_room(self, asks: Waiting, room: PoolRoom) -> bool:
        """Return whether the pool has room for a run; one that has started has room for its shares."""
        return bool(asks.share_of) or room.take(asks.queue)

    def _missing(self, runs: Sequence[Run]) -> dict[str, tuple[Run, Wait | Refuse]]:
        """Return which runs cannot start here yet for want of their files, each with the sentence that says so."""
        said = {run.id: (run, self._transfers.missing(run)) for run in runs}
        return {run_id: (run, Wait(run_id, text)) for run_id, (run, text) in said.items() if text}

    def _is_left_to_others(self, asks: Waiting) -> bool:
        """Return whether a run that any host may start is left, for a moment, to a host with more free slots.

        No host knows how busy the others are. The busier one is, the longer it lets a new run wait: an idle one is
        first, and where all are busy the run has waited for longer than that anyway.
        """
        if asks.queue.host is not None or asks.lost or asks.n_hosts > 1 or not self._host.has_company(self._client):
            return False
        share = self._busy_share(asks.queue)
        return share > 0 and self._clock() - asks.since < _HEAD_START_S * share

    def _busy_share(self, queue: Queue) -> float:
        """Return the share of this host's slots for a kind of work that is held, in [0, 1]."""
        devices = [device for device in self._devices if (device.tag == CPU) == (queue.device == CPU)]
        n_slots = sum(device.limits.get(queue.kind, 0) for device in devices)
        n_held = sum(holder.kind == queue.kind for device in devices for holder in device.holders)
        return min(1.0, n_held / n_slots) if n_slots else 1.0

    def _start(self, run: Run, asks: Waiting, go: Start, queues: Queues) -> None:
        try:
            if self._starter.start(run, go.uuids, queues, go.team):
                self._waitlist.drop(run.id)
                self._policy.note_start(asks)
                self._note_gap(run, asks.queue.kind)
        except TrainyardError as exc:  # for example, its own folder cannot be written
            if self._monitor.get(run.id) is not None:
                raise  # it has its process
            self._sentences.refuse(run, str(exc))

    def _note_gap(self, run: Run, kind: Kind) -> None:
        freed, entry = self._monitor.freed_at(run.id), self._monitor.get(run.id)
        if freed is not None and entry is not None:
            for tag in device_tags(entry.tag):
                self.gaps.note(tag, kind, self._clock() - max(freed, self._client.clock.here(run.since)))

    def _decide(self, mine: Sequence[tuple[Run, Queue]], queues: Queues) -> list[tuple[Run, Waiting, Decision]]:
        devices = self._devices = [self._without_kept(device) for device in self._host.devices(queues)]
        starting = {holder.run_id for device in devices for holder in device.holders}  # by another process, just now
        runs = {run.id: (run, queue) for run, queue in mine if run.id not in starting}
        terminals = self._terminals.others({*runs, *starting})
        asked, rules = self._policy.look([*(self._asks(*one) for one in runs.values()), *terminals])
        own = {asks.run_id: (runs[asks.run_id][0], asks) for asks in asked if asks.run_id in runs}
        decisions = place(asked, devices, host=self._host.name, now=self._clock(), disk=read_disk(), rules=rules)
        self._terminals.note(terminals, decisions)  # they take themselves what is given to them
        return [(*own[decision.run_id], decision) for decision in decisions if decision.run_id in own]

    def _asks(self, run: Run, queue: Queue) -> Waiting:
        asks, offers = self._host.asks(run, queue), self._host.online_offers(run, self._client)
        since = self._client.clock.here(self._waited.since(run))
        return replace(asks, lost=self._kept.uuids(run.id), since=since, offers=offers)

    def _without_kept(self, device: DeviceState) -> DeviceState:
        """Return a device without the slots that are kept for dead runs: these ask for them again."""
        return replace(device, holders=tuple(run for run in device.holders if not self._kept.uuids(run.run_id)))

    def _reasons(
        self, decided: Sequence[tuple[Run, Waiting, Decision]], queues: Queues
    ) -> list[tuple[Run, Wait | Refuse]]:
        reasons: list[tuple[Run, Wait | Refuse]] = []
        for run, asks, decision in decided:
            match decision:
                case Refuse():
                    missing = self._host.elsewhere(asks, queues, self._client)
                    if missing is None:
                        self._host.look_again()
                        missing = self._host.elsewhere(asks, self._host.queues(self._client), self._client)
                    if missing is None:
                        reasons.append((run, decision))
                    elif missing:
                        reasons.append((run, Wait(run.id, missing)))
                case Wait() if decision.reason:
                    reasons.append((run, decision))
        return reasons
