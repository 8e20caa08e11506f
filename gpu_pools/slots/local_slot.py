"""A slot for a run in a person's own process, such as `yard run`."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from prefect import get_run_logger
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from gpu_pools.bookings.reader import BookingReader
from gpu_pools.kernels import kernel_environment
from gpu_pools.names import asker, host_name
from gpu_pools.placement.disk import read_disk
from gpu_pools.placement.host_state import CPU, HostState, Queues
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Decision, Refuse, Start, place
from gpu_pools.placement.probe import Device, environment, get_probe
from gpu_pools.placement.queues import Kind, Queue, default_priority, device_queue
from gpu_pools.placement.rules import Policy, yard_policy
from gpu_pools.prefect_client import PoolClient, make_state
from gpu_pools.process.run_setup import DEADLINE, DEVICE, ON, PRIORITY
from gpu_pools.sharing.memory_forecast import too_large
from gpu_pools.sharing.memory_peaks import MemoryForecasts, forecast_labels
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.slots.lease import Holder, Lease, own_holders
from gpu_pools.slots.slot_meter import metered
from gpu_pools.slots.turns import Turns
from gpu_pools.slots.waiters import Announcement
from gpu_pools.stopping import pause
from tasks.base.errors import GpuBusyError, GpuError

WHEN_BUSY = "TRAINYARD_WHEN_BUSY"
"""`refuse`: a run in a person's own process ends at once where it would have to wait."""

_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class LocalSlot:
    """A slot that a block holds.

    Attributes:
        env: the variables by which a process computes on it.
        locks: to pass to a process that is to keep the slot until it ends (`pass_fds`).
    """

    env: Mapping[str, str] = field(default_factory=dict)
    locks: tuple[int, ...] = ()


def refuse_if_taken(device: str, kind: Kind, n_devices: int = 1) -> None:
    """Say at once, before any work is done for it, that a run would have to wait; it may also, where that is wanted.

    A run that the worker started is none of this: the worker has looked.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        kind: of the work.
        n_devices: that it needs at once.

    Raises:
        GpuError: there is no such device here, or not as many.
        GpuBusyError: it is taken, and TRAINYARD_WHEN_BUSY is `refuse`.
    """
    if "TRAINYARD_LEASE" in os.environ or os.environ.get(WHEN_BUSY) != "refuse":
        return
    host = own_host()
    asks = _asks(host, device, kind, n_devices)
    decision = _decide(host, asks, limits(), _turns(), own_policy())
    if isinstance(decision, Refuse):
        raise GpuError(decision.reason)
    if not isinstance(decision, Start):
        raise GpuBusyError(decision.reason)


def own_host() -> HostState:
    """Return this host, for a process that may have computed on its GPUs before."""
    return HostState(host_name(), get_probe(), own_pid=os.getpid())


def own_queue(host: HostState, device: str, kind: Kind) -> Queue:
    """Return the queue of a device for a run in this process.

    Raises:
        GpuError: it is another host's.
    """
    queue = device_queue(device, kind)
    if not host.serves(queue):
        raise GpuError(f"found device {queue.label!r}, need one of this host: {', '.join(host.tags)}")
    return queue


def own_priority(kind: Kind) -> int:
    """Return the priority of a run in a person's own process, 1 (first) to 10: TRAINYARD_PRIORITY, else its kind's."""
    asked = os.environ.get(PRIORITY, "")
    return int(asked) if asked.isdecimal() and 1 <= int(asked) <= 10 else default_priority(kind)


def _asks(host: HostState, device: str, kind: Kind, n_devices: int, lasts_s: float | None = None) -> Waiting:
    """Return what the running flow asks for."""
    queue = own_queue(host, device, kind)
    need = None if queue.device == CPU else MemoryForecasts(PoolClient(), time.time).of_own_run()
    return Waiting(
        *(str(flow_run.id), str(flow_run.name), queue),
        priority=own_priority(kind),
        since=time.time(),
        owner=asker(),
        flow=_flow_id(),
        limit_s=min((known for known in (_left_s(), lasts_s) if known is not None), default=None),
        memory_mib=need.mib if need else None,
        memory_source=need.source if need else "",
        n_devices=n_devices,
    )


def _flow_id() -> str:
    context = FlowRunContext.get()
    return str(context.flow_run.flow_id) if context and context.flow_run else ""


def _left_s() -> float | None:
    """Return how many seconds this process may go on; None: it has no time limit."""
    deadline = os.environ.get(DEADLINE)
    return max(0.0, float(deadline) - time.time()) if deadline else None


@contextmanager
def on_device(device: str, kind: Kind, n_devices: int = 1, *, lasts_s: float | None = None) -> Iterator[LocalSlot]:
    """Hold a slot for the block of a running flow, in which the process sees that one device as `cuda`, or none.

    With several devices it holds a slot on each of them, and sees them as cuda:0, cuda:1 and so on.

    A run that the worker started has its slot already.

    Args:
        device: `cpu`, `cuda` (the least loaded GPU) or `cuda:N`.
        kind: of the work.
        n_devices: that it needs at once; more than one of `cuda` alone.
        lasts_s: the block ends after so many seconds at the latest; None: nobody knows.

    Raises:
        GpuError: there is no such device here, or not as many.
        GpuBusyError: it is taken, and TRAINYARD_WHEN_BUSY is `refuse`.
    """
    if "TRAINYARD_LEASE" in os.environ:
        _say_if_too_large(own_holders())
        with metered():
            yield LocalSlot()
        return
    host = own_host()
    asks = _asks(host, device, kind, n_devices, lasts_s)
    with _slot(host, asks) as lease:
        _say_if_too_large(lease.holders)
        waited_s, place = time.time() - asks.since, (host.name, lease.tag)
        PoolClient().set_own_slot(asks.run_id, place, owner=asks.owner, kind=kind, waited_s=waited_s)
        if expected := forecast_labels(lease.holder):
            PoolClient().set_labels(asks.run_id, expected)
        own = slot_environment(lease, host.devices_of([holder.uuid for holder in lease.holders]))
        with environ(own), metered():
            yield LocalSlot(own, lease.run_fds)


def slot_environment(lease: Lease, gpus: Sequence[Device]) -> dict[str, str]:
    """Return the variables by which a process computes on its slots; `gpus` empty: on the CPU's."""
    own = {**environment(gpus), **kernel_environment(next(iter(gpus), None)), **lease.env}
    return own | {DEVICE: "cuda" if gpus else "cpu", ON: lease.tag}


def _say_if_too_large(holders: Sequence[Holder]) -> None:
    """Say in the run's log that a GPU, which it has to itself, is expected to be too small for it."""
    for text in filter(None, (too_large(holder, get_probe()) for holder in holders)):
        get_run_logger().warning(text)


def _slot(host: HostState, asks: Waiting) -> Lease:
    def say(reason: str) -> None:
        if reason:
            get_run_logger().info("waits: %s", reason)
        name = "Waiting" if reason else "Running"
        PoolClient().force(asks.run_id, make_state(StateType.RUNNING, name, reason))

    return wait_for_slot(host, asks, limits(), own_policy(), say, refuses=os.environ.get(WHEN_BUSY) == "refuse")


def wait_for_slot(
    host: HostState,
    asks: Waiting,
    queues: Queues,
    policy: Policy,
    say: Callable[[str], None],
    *,
    refuses: bool,
) -> Lease:
    """Wait for the slots of a run in the order of all that wait on this host, and take them when it is its turn.

    Args:
        host: this one.
        asks: what waits.
        queues: with the limits set in Prefect.
        policy: what there is to ask before runs are placed.
        say: is told why it waits, whenever that changes, and "" when it waits no more; not called where it need not.
        refuses: it does not want to wait.

    Raises:
        GpuError: there is no such device here.
        GpuBusyError: it would have to wait.
    """
    turns, said = _turns(), ""
    with Announcement("terminal") as ours:
        while True:
            ours.say([asks])
            decision = _decide(host, asks, queues, turns, policy)
            if isinstance(decision, Start) and said:  # what it stands on may be seconds old
                policy.renew()
                decision = _decide(host, asks, queues, turns, policy)
            if isinstance(decision, Refuse):
                raise GpuError(decision.reason)
            if isinstance(decision, Start):
                lease = host.take(asks, decision.uuids, queues)
                if lease is not None:
                    if said:
                        say("")
                    return lease
            elif decision.reason != said:
                said = decision.reason
                if refuses:
                    raise GpuBusyError(said)
                say(said)
            pause(_POLL_S)


def _turns() -> Turns:
    return Turns(("terminal", "worker"), time.time)


def own_policy() -> Policy:
    """Return what there is to ask before runs are placed, where a server is."""
    client, host = PoolClient(), host_name()
    return yard_policy(client, host, BookingReader(client, host, time.time), SettingsReader(), time.time)


def _decide(host: HostState, asks: Waiting, queues: Queues, turns: Turns, policy: Policy) -> Decision:
    devices = host.devices(queues)
    others = turns.others({asks.run_id, *(holder.run_id for device in devices for holder in device.holders)})
    waiting, rules = policy.look([asks, *others])
    decisions = place(waiting, devices, host=host.name, now=time.time(), disk=read_disk(), rules=rules)
    turns.note(others, decisions)
    return next(decision for decision in decisions if decision.run_id == asks.run_id)


def limits() -> Queues:
    """Return the queues with the limits set in Prefect; without a work pool the default ones hold."""
    try:
        return {queue.name: queue for queue in PoolClient().queues()}
    except httpx.HTTPStatusError as exc:
        if exc.response.status_code != 404:
            raise
        return {}


@contextmanager
def environ(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:  # the next run in this process may ask for another device
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
