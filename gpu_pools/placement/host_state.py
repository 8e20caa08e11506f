"""The devices, limits and holders of this host, as the placement decision needs them."""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import psutil

from gpu_pools.device_count import device_count, host_count
from gpu_pools.hosts.offers import Offer
from gpu_pools.hosts.shares import run_shared_by
from gpu_pools.job_variables import known_limit_s, owner_of, priority_of
from gpu_pools.names import by_host
from gpu_pools.placement import intruders
from gpu_pools.placement.disk import read_disk
from gpu_pools.placement.gathering import left_of
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import DeviceState
from gpu_pools.placement.probe import Device, GpuProcess, Probe, visible
from gpu_pools.placement.queues import (
    KINDS,
    POOL,
    SLURM,
    UNCOUNTED,
    Kind,
    Queue,
    default_limit,
    host_queues,
    limit_of,
    queue_or_none,
)
from gpu_pools.prefect_client import PoolClient, QueueState, Run
from gpu_pools.process import run_setup
from gpu_pools.sharing.memory_model import MemoryNeed
from gpu_pools.slots import lease
from tasks.base.errors import GpuError

logger = logging.getLogger("trainyard.worker")

CPU = "cpu"
_QUEUES_EVERY_S = 3.0
_WORKERS_EVERY_S = 30.0
_IDLE_SHARE = 0.05  # of a GPU's memory; what a desktop or an idle CUDA context takes

Queues = Mapping[str, QueueState]


@dataclass(slots=True)
class PoolRoom:
    """How many more runs the whole pool takes; pipelines, which only wait for others, and housekeeping do not count."""

    paused: bool
    left: float
    reason: str  # why no more

    def take(self, queue: Queue) -> bool:
        """Return whether a run may start, and count it then."""
        counts = queue.kind not in UNCOUNTED
        if self.paused or (counts and self.left < 1):
            return False
        self.left -= counts
        return True


def _n_devices(run: Run, queue: Queue) -> int:
    """Return how many devices a run needs at once; a stage that computes nothing on a GPU, and a pipeline, need one."""
    return device_count(run.parameters) if queue.kind == "training" or queue.device != CPU else 1


def n_hosts(run: Run, queue: Queue) -> int:
    """Return how many hosts a run needs at once; all but trainings need one."""
    return host_count(run.parameters) if queue.kind == "training" else 1


class HostState:
    """The devices of a host with their limits, and which waiting runs are for them.

    Args:
        name: of the host, as in `boxb/cuda:1`.
        probe: of its GPUs.
        clock: Unix seconds.
        forecast: tells what a run will take of a GPU's memory, where that is known.
        own_pid: of a process that is no stranger on a GPU, nor is what it has started; None: only runs are none.
    """

    def __init__(
        self,
        name: str,
        probe: Probe,
        clock: Callable[[], float] = time.time,
        *,
        forecast: Callable[[Run], MemoryNeed | None] = lambda _: None,
        own_pid: int | None = None,
    ) -> None:
        self.name, self._probe, self._clock, self._forecast = name, probe, clock, forecast
        self._own_pids = [] if own_pid is None else [own_pid]
        read_disk()  # a setting that is none is refused now
        self._gpus = {
            device.uuid: device for device in visible(probe.devices(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        }
        self._queues: tuple[float, Queues] = (float("-inf"), {})
        self._told_of_containers = False
        self._workers: tuple[float, Mapping[str, bool]] = (float("-inf"), {})
        self._pool: tuple[float, QueueState] = (float("-inf"), QueueState(POOL, None, False))
        self._silent: set[str] = set()

    @property
    def tags(self) -> list[str]:
        """Return the names of the devices."""
        return [*(device.tag for device in self._gpus.values()), CPU]

    @property
    def gpus(self) -> dict[str, str]:
        """Return the names of the GPUs, each with its uuid; also of those that do not answer."""
        return {device.tag: uuid for uuid, device in self._gpus.items()}

    @property
    def known_queues(self) -> Queues:
        """Return the queues as they were last read, without asking; none before that."""
        return self._queues[1]

    @property
    def threads(self) -> int:
        """Return how many cores a run that computes on the CPU gets: two runs with all of them each crawl."""
        cores = len(os.sched_getaffinity(0))
        simulated = sum(device.simulated for device in self._gpus.values())
        at_once = simulated or len(self._gpus) or default_limit("training", None)
        return max(1, cores // at_once)

    def ensure_queues(self, client: PoolClient) -> None:
        """Make the queues of these devices that are missing, with their default limits.

        Those with this host's name have none of their own. They are how the others know what devices it has.
        """
        known = {queue.name for queue in client.queues()}
        for queue, limit in host_queues(list(self._gpus.values()), self.name).items():
            if queue.name not in known:
                client.create_queue(queue.name, limit)

    def queues(self, client: PoolClient, *, fresh: bool = False) -> Queues:
        """Return the queues as they are set in Prefect, a few seconds old at most, or as they are now."""
        if fresh or self._clock() - self._queues[0] >= _QUEUES_EVERY_S:
            self._queues = (self._clock(), {queue.name: queue for queue in client.queues()})
        return self._queues[1]

    def limit(self, tag: str, kind: Kind, queues: Queues) -> int:
        """Return how many runs of a kind a device of this host takes at once."""
        gpu = next((device for device in self._gpus.values() if device.tag == tag), None)
        memory_mib = gpu.memory_total_mib if gpu else None
        return limit_of(tag, kind, self.name, lambda name: queues[name].limit if name in queues else None, memory_mib)

    def device(self, uuid: str) -> Device | None:
        """Return a GPU; None for the CPU."""
        return None if uuid == CPU else self._gpus[uuid]

    def devices_of(self, uuids: Sequence[str]) -> list[Device]:
        """Return GPUs; none for the CPU."""
        return [self._gpus[uuid] for uuid in uuids if uuid != CPU]

    def devices(self, queues: Queues) -> list[DeviceState]:
        """Return every device with who holds it."""
        held = lease.holders()
        paused = frozenset(queue.name for queue in queues.values() if queue.paused)
        return [*(self._gpu(uuid, held, queues, paused) for uuid in self._gpus), self._cpu(held, queues, paused)]

    def intruders(self) -> dict[str, list[tuple[str, str]]]:
        """Return, by run, what computes on its GPU and is no run: the process, and since which epoch of the run."""
        held = lease.holders()
        found: dict[str, list[tuple[str, str]]] = {}
        for holder in held:
            device = self._read(holder.uuid) if holder.uuid in self._gpus else None
            if isinstance(device, Device):
                when = f", {holder.progress.unit} {holder.progress.epoch}" if holder.progress else ""
                processes = self._foreign(device, held)
                known = found.setdefault(holder.run_id, [])
                known += [(f"{p.pid} ({p.name}) of {p.user}", when) for p in processes]
        return found

    def _read(self, uuid: str) -> Device | str:
        """Return a GPU as it is now, or why it does not answer: the others work on without one that is lost."""
        try:
            device = self._probe.device(uuid)
        except GpuError as exc:
            if uuid not in self._silent:
                logger.error("%s takes no runs: %s", self._gpus[uuid].tag, exc)
            self._silent.add(uuid)
            return str(exc)
        self._silent.discard(uuid)
        return device

    def faults(self) -> dict[str, str]:
        """Return why GPUs do not answer, by their names; empty where all do."""
        found = {device.tag: self._read(uuid) for uuid, device in self._gpus.items()}
        return {tag: read for tag, read in found.items() if isinstance(read, str)}

    def serves(self, queue: Queue) -> bool:
        """Return whether runs of a queue are for this host."""
        return queue.host in {None, self.name}

    def has_company(self, client: PoolClient) -> bool:
        """Return whether another host has a worker that is online."""
        return any(online for host, online in self._online(client).items() if host not in (self.name, SLURM))

    def n_online(self, client: PoolClient) -> int:
        """Return how many hosts have a worker that is online, this one included."""
        return sum(online for host, online in self._online(client).items() if host != SLURM)

    def look_again(self) -> None:
        """Forget what was read of hosts and queues: no run is refused for good by what may have changed since."""
        self._workers, self._queues = (float("-inf"), {}), (float("-inf"), {})

    def known_host(self, queue: Queue, client: PoolClient) -> tuple[bool, str]:
        """Return whether the host of a queue has, or had, a worker, and what to say of one that has none now."""
        online = self._online(client)
        if queue.host not in online:
            self.look_again()
            online = self._online(client)
        if queue.host not in online:
            return False, f"found no host {queue.host!r} for device {queue.label}; have: {', '.join(sorted(online))}"
        return True, "" if online[queue.host] else f"{queue.label} waits for a worker on {queue.host}: none is online"

    def elsewhere(self, asks: Waiting, queues: Queues, client: PoolClient) -> str | None:
        """Return why a run waits for devices that this host lacks; None: nobody has them, "": one that is online has.

        Args:
            asks: the run.
            queues: all of them; those with a host's name say what devices it has.
            client: knows which hosts are online.
        """
        queue = asks.queue
        if queue.host == self.name:
            return None
        online, n_found = self._online(client), Counter[str]()
        for other in filter(None, map(queue_or_none, queues)):
            if other.host in online and other.host != self.name and other.kind == queue.kind:
                n_found[other.host] += (
                    other.device == queue.device if queue.pinned else other.device.startswith("cuda:")
                )
        found = sorted(host for host, n in n_found.items() if n >= asks.n_devices)
        if not found:
            return None
        if any(online[host] for host in found):
            return ""
        return f"{queue.label} is on {', '.join(found)}, where no worker is online"

    def gpus_by_host(self, kind: Kind, queues: Queues, client: PoolClient) -> dict[str, tuple[int, bool]]:
        """Return how many GPUs hosts have for a kind of work, and whether each is online.

        Args:
            kind: of the work.
            queues: all of them; those with a host's name say what devices it has.
            client: knows which hosts are online.
        """
        online, n_gpus = self._online(client), Counter({self.name: len(self._gpus)})
        for other in filter(None, map(queue_or_none, queues)):
            if other.host in online and other.host != self.name and other.kind == kind:
                n_gpus[other.host] += other.device.startswith("cuda:")
        return {host: (n, online[host]) for host, n in n_gpus.items()}

    def online_offers(self, run: Run, client: PoolClient) -> dict[str, Offer]:
        """Return what other hosts offer a run that needs several, of those that are online."""
        online = self._online(client) if run.offers else {}
        return {host: offer for host, offer in run.offers.items() if host != self.name and online.get(host)}

    def pool_room(self, client: PoolClient, *, fresh: bool = False) -> PoolRoom:
        """Return how many more runs the whole pool takes, and why no more than that; as it is set now, if `fresh`."""
        if fresh or self._clock() - self._pool[0] >= _QUEUES_EVERY_S:
            self._pool = (self._clock(), client.pool())
        pool = self._pool[1]
        if pool.paused:
            return PoolRoom(True, 0, f"work pool {POOL} is paused")
        if pool.limit is None:
            return PoolRoom(False, math.inf, "")
        under_way = client.in_state("PENDING", "RUNNING", "CANCELLING")
        n_runs = sum((queue := queue_or_none(run.queue)) is None or queue.kind not in UNCOUNTED for run in under_way)
        return PoolRoom(False, pool.limit - n_runs, f"the limit of work pool {POOL} is {pool.limit} runs at once")

    def _online(self, client: PoolClient) -> dict[str, bool]:
        """Return the hosts that have, or had, a worker (HOST or HOST:NAME), and whether one is online."""
        if self._clock() - self._workers[0] >= _WORKERS_EVERY_S:
            self._workers = (self._clock(), client.workers())
        return by_host(self._workers[1]) | {self.name: True}

    def asks(self, run: Run, queue: Queue) -> Waiting:
        """Return a waiting run as placement wants it."""
        need = self._forecast(run) if queue.device != CPU else None
        return Waiting(
            run_id=run.id,
            run_name=run.name,
            queue=queue,
            priority=priority_of(run, queue.kind),
            since=run.since,
            owner=owner_of(run),
            flow=run.flow,
            limit_s=known_limit_s(run),
            spent_s=run_setup.read_attempt(run.id)[1] if run.begun else 0.0,
            memory_mib=need.mib if need else None,
            memory_source=need.source if need else "",
            n_devices=_n_devices(run, queue),
            n_hosts=n_hosts(run, queue),
            due=run.since,
            share_of=run_shared_by(run),
        )

    def take(self, asks: Waiting, uuids: Collection[str], queues: Queues) -> lease.Lease | None:
        """Take a slot on each of some devices for a run; None where others were faster at one of them.

        Args:
            asks: the run.
            uuids: of the GPUs; "cpu".
            queues: with the limits set in Prefect.

        Raises:
            StorageError: the locks cannot be used.
        """
        in_order = [uuid for uuid in (*self._gpus, CPU) if uuid in uuids]
        return lease.acquire_all([self._slot(asks, uuid, queues) for uuid in in_order])

    def _slot(self, asks: Waiting, uuid: str, queues: Queues) -> tuple[int, lease.Holder]:
        """Return how many runs of its kind a device takes, and what the slot of a run there says of it."""
        gpu, kind, left_s = self.device(uuid), asks.queue.kind, left_of(asks)
        tag, now = gpu.tag if gpu else CPU, self._clock()
        holder = lease.Holder(
            run_id=asks.run_id,
            run_name=asks.run_name,
            owner=asks.owner,
            device=tag,
            uuid=uuid,
            kind=kind,
            number=-1,
            pid=os.getpid(),
            since=now,
            progress=None,
            memory_mib=asks.memory_mib,
            memory_source=asks.memory_source,
            ends_by=None if left_s is None else now + left_s,
        )
        return self.limit(tag, kind, queues), holder

    def _gpu(self, uuid: str, held: list[lease.Holder], queues: Queues, paused: frozenset[str]) -> DeviceState:
        read = self._read(uuid)
        device = self._gpus[uuid] if isinstance(read, str) else read
        holders = tuple(holder for holder in held if holder.uuid == uuid)
        return DeviceState(
            tag=device.tag,
            uuid=uuid,
            name=device.name,
            limits={kind: self.limit(device.tag, kind, queues) for kind in ("training", "inference")},
            holders=holders,
            memory_used_mib=device.memory_used_mib,
            utilisation_percent=device.utilisation_percent,
            foreign=self._foreign(device, held),
            paused=paused,
            fault=read if isinstance(read, str) else None,
            memory_total_mib=device.memory_total_mib,
            memory_by_run=intruders.memory_of(device, {holder.run_id: holder.pid for holder in holders}),
        )

    def _foreign(self, device: Device, held: Sequence[lease.Holder]) -> tuple[GpuProcess, ...]:
        """Return what computes on a GPU and is no run; by memory, where the driver's process numbers are not ours."""
        look = intruders.look(device, [*self._own_pids, *(holder.pid for holder in held)])
        if look.certain:
            return look.seen
        if not self._told_of_containers:
            self._told_of_containers = True
            logger.warning(
                "the driver names processes that this system does not have, as in a container: whether a GPU without "
                "a run is free is told by its memory, and who else uses that of a run cannot be told"
            )
        ours = any(holder.uuid == device.uuid for holder in held)
        idle = device.memory_used_mib <= _IDLE_SHARE * device.memory_total_mib
        return look.seen if ours or idle else look.found

    def _cpu(self, held: list[lease.Holder], queues: Queues, paused: frozenset[str]) -> DeviceState:
        return DeviceState(
            tag=CPU,
            uuid=CPU,
            name="CPU",
            limits={kind: self.limit(CPU, kind, queues) for kind in KINDS},
            holders=tuple(holder for holder in held if holder.uuid == CPU),
            memory_used_mib=psutil.virtual_memory().used // 2**20,
            utilisation_percent=None,
            foreign=(),
            paused=paused,
        )
