"""What a worker knows at the end of a turn, for those who read it from another thread."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpu_pools.placement.host_state import CPU, HostState
from gpu_pools.placement.queues import KINDS, Kind, Queue, queue_or_none
from gpu_pools.prefect_client import Run
from gpu_pools.watching.gaps import Tally


@dataclass(frozen=True, slots=True)
class SlotLimit:
    """How many runs of a kind a device of this host takes at once, as it is set in Prefect."""

    device: str  # cuda:0, cpu
    uuid: str  # of the GPU; "cpu"
    kind: Kind
    limit: int
    paused: bool


@dataclass(frozen=True, slots=True)
class WaitingQueue:
    """A queue of the pool with what waits in it; `oldest`: since when its first run is due, None: none waits."""

    queue: Queue
    n_runs: int
    oldest: float | None  # Unix seconds
    paused: bool


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker at the end of a turn.

    Args:
        host, worker: their names.
        at: the end of the turn, Unix seconds.
        answered: whether Prefect's server has answered all that was asked of it in that turn.
        draining: whether it starts nothing more.
        n_runs: that it takes care of.
        gpus: device -> uuid, also of one that does not answer.
        slots: of the devices of this host.
        queues: of the whole pool; None: what waits is not known, as the server is away or nothing is started.
        gaps: (device, kind) -> how long free slots kept runs waiting.
    """

    host: str
    worker: str
    at: float
    answered: bool
    draining: bool
    n_runs: int
    gpus: Mapping[str, str]
    slots: tuple[SlotLimit, ...]
    queues: tuple[WaitingQueue, ...] | None
    gaps: Mapping[tuple[str, Kind], Tally]


def worker_state(
    host: HostState,
    worker: str,
    at: float,
    *,
    waiting: Sequence[Run] | None,
    here: Callable[[float], float],
    answered: bool,
    draining: bool,
    n_runs: int,
    gaps: Mapping[tuple[str, Kind], Tally],
) -> WorkerState:
    """Return the state of a worker, from what it has read already; `waiting`: the runs that are due, None: not known.

    `here` says when a time of the server is by this host's clock.
    The other arguments are those of `WorkerState`.
    """
    queues = None if waiting is None else tuple(_queues(host, waiting, here))
    slots = tuple(_slots(host))
    return WorkerState(host.name, worker, at, answered, draining, n_runs, host.gpus, slots, queues, gaps)


def _slots(host: HostState) -> Iterator[SlotLimit]:
    known = host.known_queues
    for tag, uuid in [*host.gpus.items(), (CPU, CPU)]:
        for kind in KINDS:
            names = (Queue(tag, kind, host.name).name, Queue(tag, kind).name)
            paused = any(name in known and known[name].paused for name in names)
            if limit := host.limit(tag, kind, known):
                yield SlotLimit(tag, uuid, kind, limit, paused)


def _queues(host: HostState, waiting: Sequence[Run], here: Callable[[float], float]) -> Iterator[WaitingQueue]:
    """Yield the queues in which something waits, and those that a run may be put into at any time."""
    due: dict[str, list[float]] = {name: [] for name in host.known_queues}
    for run in waiting:
        due.setdefault(run.queue, []).append(run.since)
    for name, since in sorted(due.items()):
        queue, known = queue_or_none(name), host.known_queues.get(name)
        # A host's own queues stand beside those without its name, and most are never used.
        if queue is not None and (since or queue.host is None):
            oldest = here(min(since)) if since else None
            yield WaitingQueue(queue, len(since), oldest, known is not None and known.paused)
