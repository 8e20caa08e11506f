"""Queues of the work pool, each for a device and a kind of work; the only module that parses names."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from gpu_pools.placement.probe import Device
from tasks.base.errors import ConfigError

Kind = Literal["training", "inference", "preparation", "pipeline", "housekeeping"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

POOL = "gpu"
POOL_TYPE = "gpu-process"

SLURM = "slurm"
"""Stands for a host in the names of queues whose runs are Slurm's to start."""

MOVED = "queue"
"""The job variable of a run that was moved: the queue that it waits in since."""

UNCOUNTED: Final[tuple[Kind, ...]] = ("pipeline", "housekeeping")
"""Kinds that compute nothing: no limit of the whole pool keeps their runs waiting."""

_GPU_KINDS: Final[tuple[Kind, ...]] = ("training", "inference")
_CPU_LIMITS: Final[dict[Kind, int]] = {
    "training": 2,
    "inference": 4,
    "preparation": 2,
    "pipeline": 16,
    "housekeeping": 1,
}
_PRIORITIES: Final[dict[Kind, int]] = {
    "training": 5,
    "inference": 3,
    "preparation": 5,
    "pipeline": 5,
    "housekeeping": 5,
}
_GIB_IN_MIB = 1024

# A number has one spelling (no cuda:01), or one device would have two queues with a limit each.
_DEVICE = r"(?P<device>cpu|cuda(?::(?:0|[1-9][0-9]*))?)"
_HOST = r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class QueueError(ConfigError):
    """The name of a queue or of a device means none."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Where runs of one kind wait for one device.

    Args:
        device: `cuda` (any GPU), `cuda:N` or `cpu`.
        kind: of its runs.
        host: None for whichever has the device.
    """

    device: str
    kind: Kind
    host: str | None = None

    @property
    def name(self) -> str:
        """The queue's name in Prefect, where a slash is not allowed: boxb.cuda:1.training."""
        return ".".join(part for part in (self.host, self.device, self.kind) if part)

    @property
    def label(self) -> str:
        """The device as people write it: boxb/cuda:1."""
        return f"{self.host}/{self.device}" if self.host else self.device

    @property
    def pinned(self) -> bool:
        """Whether it means one device, and not any GPU."""
        return self.device != "cuda"


def parse_queue(name: str) -> Queue:
    """Return the queue a name means.

    Raises:
        QueueError: it is not `<device>.<kind>` or `<host>.<device>.<kind>`, or a GPU does no work of that kind.
    """
    found = re.fullmatch(rf"(?:{_HOST}\.)?{_DEVICE}\.(?P<kind>[a-z]+)", name)
    if found:
        for kind in KINDS:
            if found["kind"] == kind and (found["device"] == "cpu" or kind in _GPU_KINDS):
                return Queue(found["device"], kind, found["host"])
    raise QueueError(
        f"found queue {name!r}, need a device (cuda, cuda:N, boxb.cuda:N) with .training or .inference, "
        "or cpu with .training, .inference, .preparation, .pipeline or .housekeeping"
    )


def queue_or_none(name: str) -> Queue | None:
    """Return the queue a name means; None for `default`, and those that somebody made for himself."""
    try:
        return parse_queue(name)
    except QueueError:
        return None


def queue_of(run: Mapping[str, Any]) -> str:
    """Return the name of the queue of a run, as Prefect's API has the run; empty for none.

    It is the one that the run was moved to, else the one that it was made in, which Prefect lets nobody change.
    """
    moved = (run["job_variables"] or {}).get(MOVED)
    is_queue = isinstance(moved, str) and queue_or_none(moved) is not None
    return str(moved) if is_queue else str(run["work_queue_name"] or "")


def parse_device(text: str) -> tuple[str | None, str]:
    """Return host (None where none is named) and device of what people write: `cuda:1`, `boxb/cuda:1`.

    Raises:
        QueueError: it is no name of a device.
    """
    found = re.fullmatch(rf"(?:{_HOST}/)?{_DEVICE}", text.strip())
    if not found:
        raise QueueError(f"found device {text!r}, need cpu, cuda, cuda:N or, for another host, boxb/cuda:N")
    return found["host"], found["device"]


def device_tags(text: str) -> tuple[str, ...]:
    """Return the devices of a run as it is written on it: cuda:0,cuda:2 are two; none for "", where nobody knows."""
    return tuple(tag for tag in text.split(",") if tag)


def default_limit(kind: Kind, memory_total_mib: int | None) -> int:
    """Return how many runs of a kind a device takes at once unless told otherwise.

    Args:
        kind: of the runs; a GPU takes no preparation and no pipeline.
        memory_total_mib: of the GPU, MiB; None for the CPU.
    """
    if memory_total_mib is None:
        return _CPU_LIMITS[kind]
    if kind == "training":
        return 1
    if kind == "inference":
        # Cards sold as 24, 12 and 8 GB; each tells the driver somewhat less.
        return 3 if memory_total_mib >= 20 * _GIB_IN_MIB else 2 if memory_total_mib >= 10 * _GIB_IN_MIB else 1
    return 0


def limit_of(
    device: str, kind: Kind, host: str, known: Callable[[str], int | None], memory_total_mib: int | None
) -> int:
    """Return how many runs of a kind a device of a host takes at once: as set for the host, for all, or the default.

    Args:
        device, kind, host: whose limit.
        known: returns the limit that a queue of this name has in Prefect, None for none.
        memory_total_mib: of the GPU; None for the CPU.
    """
    for name in (Queue(device, kind, host).name, Queue(device, kind).name):
        if (limit := known(name)) is not None:
            return limit
    return default_limit(kind, memory_total_mib)


def default_priority(kind: Kind) -> int:
    """Return the priority of a run that names none, 1 (first) to 10."""
    return _PRIORITIES[kind]


def host_queues(devices: Sequence[Device], host: str) -> dict[Queue, int | None]:
    """Return every queue of a host with its default limit; None: `cuda` has none, and `boxb/cuda`, its GPUs have.

    A device has one limit for its two queues, with the host's name and without; the one with the name goes before.

    Args:
        devices: the GPUs of the host.
        host: its name.
    """
    queues: dict[Queue, int | None] = {Queue("cuda", kind): None for kind in _GPU_KINDS}
    for device in devices:
        for kind in _GPU_KINDS:
            queues[Queue(device.tag, kind)] = default_limit(kind, device.memory_total_mib)
    for kind in KINDS:
        queues[Queue("cpu", kind)] = default_limit(kind, None)
    own = {Queue(queue.device, queue.kind, host): None for queue in queues if queue.kind != "pipeline"}
    return {**queues, **own}


def parse_duration(value: str | float) -> float:
    """Return seconds for `"5h"`, `"90s"`, `"30m"` or `"2d"`.

    Raises:
        ConfigError: it is none of these, without its unit for one, or not more than 0.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])", str(value).strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if isinstance(value, bool) or not 0 < seconds < math.inf:
        raise ConfigError(f"found duration {value!r}, need a number above 0 with s, m, h or d, such as 90s or 5h")
    return seconds


def duration_text(seconds: float) -> str:
    """Return seconds as people read them: 1 h 30 min."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (left, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"


def device_queue(device: str, kind: Kind) -> Queue:
    """Return the queue in which runs of a kind wait for what people write as a device.

    Raises:
        QueueError: it is no name of a device.
    """
    host, name = parse_device(device)
    return Queue(name, kind, host)
