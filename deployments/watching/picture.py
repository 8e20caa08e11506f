"""Gathers what `yard top` shows: the devices of this host with their slots, and what the server knows of runs."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from deployments.api import Api, connect
from deployments.machine.devices import ANY_GPU, DeviceView, device_views
from deployments.runs.find import RUNNING, WAITING, RunRow, list_runs
from deployments.runs.prefect_http import paged
from deployments.services.service import ServiceError
from gpu_pools.names import host_name
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import KINDS, POOL, Kind, limit_of
from gpu_pools.slots.waiters import waiting_elsewhere
from tasks.base.errors import ConfigError, GpuError, StorageError

EVERY_S = 2.0
"""Between two pictures."""

_MOST_RUNS = 200
_LIMITS_EVERY_S = 10.0
_IN_TERMINAL = "Waiting"  # name of the state of a run in a terminal that has no slot yet, among those that run


@dataclass(frozen=True, slots=True)
class ServerView:
    """What the server said last.

    Args:
        rows: the runs that run and those that wait.
        limits: queue -> limit, where one is set.
        fault: why nothing more is known.
        at: when it said so, Unix seconds; 0: it was not asked yet.
    """

    rows: Sequence[RunRow] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    fault: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a device for a kind of work."""

    kind: Kind
    limit: int
    n_held: int

    @property
    def free(self) -> int:
        """How many are open; 0 where a limit was lowered below what runs."""
        return max(0, self.limit - self.n_held)


@dataclass(frozen=True, slots=True)
class Picture:
    """A yard at one moment, as one host sees it.

    Args:
        host: its name.
        at: Unix seconds.
        devices: of the host, with who holds them.
        slots: by device, of each kind that it takes.
        faults: what could not be read here, a sentence each.
        server: what the server said last.
        waiting: what waits on this host, by the files of those who wait; for when the server says nothing.
    """

    host: str
    at: float
    devices: Sequence[DeviceView]
    slots: Mapping[str, Sequence[Slots]]
    faults: Sequence[str]
    server: ServerView
    waiting: Sequence[Waiting]

    @property
    def waiting_rows(self) -> list[RunRow]:
        """The runs that wait, in the order in which the server lists them."""
        return [row for row in self.server.rows if self._waits(row)]

    @property
    def rows_elsewhere(self) -> list[RunRow]:
        """The runs that run and hold no slot of this host."""
        here = {run.run_id for device in self.devices for run in device.runs}
        return [row for row in self.server.rows if row.type in RUNNING and row.id not in here and not self._waits(row)]

    def _waits(self, row: RunRow) -> bool:
        """Return whether a run is due and has no slot; what a schedule has put down for later does not wait yet."""
        is_due = row.type not in WAITING or datetime.fromisoformat(row.since).timestamp() <= self.at
        return is_due and (row.type in WAITING or row.state == _IN_TERMINAL)

    def row(self, run_id: str) -> RunRow | None:
        """Return a run as the server has it, None where it does not say."""
        return next((row for row in self.server.rows if row.id == run_id), None)


class Asker:
    """Asks the server; what seldom changes is asked for rarely: names of flows once, limits of queues now and then."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._api: Api | None = None
        self._limits: dict[str, int] = {}
        self._limits_at = float("-inf")

    def __call__(self) -> ServerView:
        """Return what the server says, or why it says nothing."""
        try:
            if self._api is None:
                self._api = self._open.enter_context(connect())
            rows = list_runs(self._api, types=[*RUNNING, *WAITING], later=False, limit=_MOST_RUNS)
            return ServerView(rows, self._read_limits(self._api), at=time.time())
        except (ConfigError, ServiceError, StorageError) as exc:
            self._open.close()  # the server may be another one the next time
            self._api, self._limits_at = None, float("-inf")
            return ServerView(fault=str(exc), at=time.time())

    def _read_limits(self, api: Api) -> dict[str, int]:
        if time.monotonic() - self._limits_at >= _LIMITS_EVERY_S:
            queues = paged(api.call, f"/work_pools/{POOL}/queues/filter", {})
            known = {row["name"]: row["concurrency_limit"] for row in queues}
            self._limits = {name: limit for name, limit in known.items() if limit is not None}
            self._limits_at = time.monotonic()
        return self._limits


class ServerWatch:
    """Asks the server again and again in a thread of its own: a picture does not wait for one that is busy or away.

    Args:
        ask: returns what it says.
    """

    def __init__(self, ask: Callable[[], ServerView]) -> None:
        self.last = ServerView()
        self._ask = ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server-watch", daemon=True)

    def __enter__(self) -> "ServerWatch":
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask no more; an answer that is under way is not waited for."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.last = self._ask()
            self._stop.wait(EVERY_S)


def picture(server: ServerView) -> Picture:
    """Return the yard as it is now: the devices from this host, the rest as the server said."""
    faults: list[str] = []
    devices: list[DeviceView] = []
    waiting: list[Waiting] = []
    try:
        devices = [view for view in device_views(()) if view.tag != ANY_GPU]
        waiting = waiting_elsewhere(("terminal", "worker"), ())
    except (GpuError, StorageError) as exc:
        faults.append(str(exc))
    slots = {view.tag: _slots(view, server.limits) for view in devices}
    return Picture(host_name(), time.time(), devices, slots, faults, server, waiting)


def _slots(view: DeviceView, limits: Mapping[str, int]) -> list[Slots]:
    memory = None if view.device is None else view.device.memory_total_mib
    found = []
    for kind in KINDS:
        n_held = sum(run.kind == kind for run in view.runs)
        limit = limit_of(view.tag, kind, host_name(), limits.get, memory)
        if limit or n_held:
            found.append(Slots(kind, limit, n_held))
    return found
