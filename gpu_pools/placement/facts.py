"""What a decision on waiting runs stands on: devices, rules, what has been decided so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gpu_pools.hosts.offers import Offer
from gpu_pools.placement.disk import Disk
from gpu_pools.placement.gathering import Gathering
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.probe import GpuProcess
from gpu_pools.placement.queues import Kind, Queue
from gpu_pools.slots.slot_files import Holder


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device of this host as it is now."""

    tag: str  # cuda:0, cpu
    uuid: str  # of the GPU; "cpu"
    name: str
    limits: Mapping[Kind, int]  # a kind that is not there: none
    holders: tuple[Holder, ...]
    memory_used_mib: int
    utilisation_percent: int | None
    foreign: tuple[GpuProcess, ...]  # processes that are no run of ours
    paused: frozenset[str]  # names of queues
    fault: str | None = None  # why it does not answer; it takes no runs then
    memory_total_mib: int | None = None  # None: of no GPU
    memory_by_run: Mapping[str, int] = field(default_factory=dict)  # MiB that a holder uses, where that can be told


@dataclass(frozen=True, slots=True)
class Start:
    """The run starts on the devices `uuids`, as many as it needs; the best first; and on the hosts `team`, if any."""

    run_id: str
    uuids: tuple[str, ...]
    team: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """The run waits; one sentence why, "" where another host says it; and what this host offers it, if it does."""

    run_id: str
    reason: str
    offer: Offer | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The run can never start on this host."""

    run_id: str
    reason: str


Decision = Start | Wait | Refuse


class Rule(Protocol):
    """What must hold, beside a free slot, for a run to start on a device; it asks nobody and changes nothing.

    Attributes:
        everywhere: it is about whose run it is, the same on all its devices, and is told also where no slot is free.
    """

    @property
    def everywhere(self) -> bool: ...

    def against(self, run: Waiting, device: DeviceState, starting: Mapping[str, Sequence[Waiting]]) -> str | None:
        """Return why a run may not start on a device with a free slot, as a sentence; None: it may.

        Args:
            run: one that waits.
            device: one that it could have.
            starting: what has been decided to start just now, by the device's uuid.
        """


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision stands on, and what has been decided so far."""

    devices: Sequence[DeviceState]
    host: str
    now: float
    paused: frozenset[str]
    starting: Mapping[str, list[Waiting]]  # by the device's uuid
    disk: Disk | None
    rules: Sequence[Rule]
    gathered: dict[Kind, Gathering] = field(default_factory=dict)  # of the best run of the kind that cannot start yet
    too_late: dict[str, float] = field(default_factory=dict)  # when devices enough for a run will be free; by its id
    turns: dict[Kind, Waiting] = field(default_factory=dict)  # for which hosts gather, of those that need several
    ready_in_s: dict[str, float] = field(default_factory=dict)  # seconds until this host has what such a run needs

    def no_room(self, kind: Kind) -> Disk | None:
        """Return the disk, if it is too full for a run of a kind; housekeeping makes room, and may start always."""
        return self.disk if self.disk is not None and self.disk.low and kind != "housekeeping" else None

    def candidates(self, run: Waiting) -> list[DeviceState]:
        """Return the devices that a run could have if they were free."""
        if run.queue.host not in (None, self.host):
            return []
        if run.queue.pinned:
            return [device for device in self.devices if device.tag == run.queue.device]
        return [device for device in self.devices if device.tag.startswith("cuda:")]

    def may_start(self, run: Waiting, device: DeviceState) -> bool:
        """Return whether a device, which a run could have, is free for it."""
        free = self.has_room(device, run.queue.kind) and not self.is_kept(run, device)
        return free and self.ruled_out(run, device) is None

    def ruled_out(self, run: Waiting, device: DeviceState) -> str | None:
        """Return the first sentence of a rule against a run on a device; of a share the run itself was asked."""
        if run.share_of:
            return None
        return next(filter(None, (rule.against(run, device, self.starting) for rule in self.rules)), None)

    def is_kept(self, run: Waiting, device: DeviceState) -> bool:
        """Return whether a device is kept for another run, which needs several."""
        gathering = self.gathered.get(run.queue.kind)
        return gathering is not None and gathering.keeps_from(run, device.uuid)

    def has_room(self, device: DeviceState, kind: Kind) -> bool:
        """Return whether a device has a slot of a kind that is free."""
        held = sum(holder.kind == kind for holder in device.holders)
        held += sum(run.queue.kind == kind for run in self.starting[device.uuid])
        return self.takes(device, kind) and held < device.limits[kind] and not self.no_room(kind)

    def takes(self, device: DeviceState, kind: Kind) -> bool:
        """Return whether a device takes runs of a kind at all, now or when others have ended."""
        shut = device.fault or device.foreign or self.paused_by(device, kind)
        return not shut and device.limits.get(kind, 0) > 0

    def paused_by(self, device: DeviceState, kind: Kind) -> str | None:
        """Return the paused queue for which nothing of a kind starts on a device."""
        names = (Queue(device.tag, kind).name, Queue(device.tag, kind, self.host).name)
        return next((name for name in names if name in self.paused), None)

    def load(self, device: DeviceState) -> tuple[int, int, int, int]:
        """Sorts devices, the least loaded first: by runs, memory, utilisation, number."""
        n_runs = len(device.holders) + len(self.starting[device.uuid])
        index = int(device.tag.partition(":")[2] or 0)
        return (n_runs, device.memory_used_mib, device.utilisation_percent or 0, index)

    def everywhere_against(self, run: Waiting, candidates: Sequence[DeviceState]) -> str:
        """Return what keeps a run from all its devices, whether they are free or not."""
        rules = () if run.share_of else self.rules
        texts = (rule.against(run, candidates[0], self.starting) for rule in rules if rule.everywhere and candidates)
        return next(filter(None, texts), "")
