"""The devices of this host, with what runs on them and what waits for them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deployments.runs.prefect_http import QueueCount
from deployments.sharing.bookings import booking_row
from gpu_pools.bookings.booking import Occurrence
from gpu_pools.bookings.rule import booked
from gpu_pools.names import host_name
from gpu_pools.placement.devices import Device, GpuProcess
from gpu_pools.placement.probe import foreign, get_probe
from gpu_pools.placement.queues import QueueError, parse_queue
from gpu_pools.placement.wording import describe
from gpu_pools.slots.lease import Holder, holders

ANY_GPU = "cuda"
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device of this host, or `cuda`, which stands for any GPU.

    Args:
        tag: cuda, cuda:0, cpu.
        device: the GPU; None where it is none.
        runs: that hold it.
        waiting: kind -> runs that wait for it and no other.
        others: processes that compute on it and are no runs.
        booking: the time of one that is now, or comes next; None: there is none, or it is not known.
    """

    tag: str
    device: Device | None
    runs: tuple[Holder, ...]
    waiting: Mapping[str, int]
    others: tuple[GpuProcess, ...]
    booking: Occurrence | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        known = {} if self.device is None else asdict(self.device)
        known.pop("processes", None)
        return {
            "device": self.tag,
            **known,
            "runs": [asdict(run) for run in self.runs],
            "waiting": dict(self.waiting),
            "others": [asdict(process) for process in self.others],
            "booking": None if self.booking is None else asdict(booking_row(self.booking, time.time())),
        }


def device_views(counts: Sequence[QueueCount], bookings: Sequence[Occurrence] = ()) -> list[DeviceView]:
    """Return every device of this host.

    Args:
        counts: of the queues; empty where no server says.
        bookings: of the yard, the next first.

    Raises:
        GpuError: the driver is there but refuses.
        StorageError: the locks cannot be read.
    """
    held, gpus = holders(), get_probe().devices()
    own = [run.pid for run in held]
    views = [DeviceView(ANY_GPU, None, (), _waiting(counts, ANY_GPU), ())] if gpus else []
    for gpu in gpus:
        runs = tuple(run for run in held if run.uuid == gpu.uuid)
        label = f"{host_name()}/{gpu.tag}"
        booking = next((found for found in bookings if found.booking.label == label), None)
        views.append(DeviceView(gpu.tag, gpu, runs, _waiting(counts, gpu.tag), foreign(gpu, own), booking))
    runs = tuple(run for run in held if run.uuid == CPU)
    return [*views, DeviceView(CPU, None, runs, _waiting(counts, CPU), ())]


def _waiting(counts: Sequence[QueueCount], tag: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in counts:
        try:
            queue = parse_queue(count.queue)
        except QueueError:
            continue  # of somebody's own making, as Prefect's `default`
        if queue.device == tag and queue.host in (None, host_name()):
            found[queue.kind] = found.get(queue.kind, 0) + count.waiting
    return found


def lines(views: Sequence[DeviceView]) -> Iterator[str]:
    """Yield what people read: a line for each device, and below it what runs, waits and is not ours."""
    for view in views:
        yield f"{view.tag:<8}{_what(view)}"
        for run in view.runs:
            yield f"{'':8}runs    {run.kind}: {describe(run, time.time())}"
        if view.booking is not None:
            yield f"{'':8}booked  {booked(view.booking, time.time()).removeprefix('booked ')}"
        waiting = ", ".join(f"{number} {kind}" for kind, number in view.waiting.items() if number)
        if waiting:
            yield f"{'':8}waits   {waiting}"
        for process in view.others:
            memory = "" if process.memory_mib is None else f", {process.memory_mib} MiB"
            yield f"{'':8}others  process {process.pid} ({process.name}) of {process.user}{memory}: no run of Trainyard"


def _what(view: DeviceView) -> str:
    gpu = view.device
    if gpu is None:
        return "any GPU" if view.tag == ANY_GPU else "CPU"
    busy = "unknown" if gpu.utilisation_percent is None else f"{gpu.utilisation_percent} %"
    return (
        f"{gpu.name}, compute {gpu.compute_capability}, {gpu.uuid}\n{'':8}memory  {gpu.memory_total_mib} MiB: "
        f"{gpu.memory_used_mib} used, {gpu.memory_free_mib} free; utilisation {busy}"
    )
