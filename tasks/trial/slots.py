"""Checks that a slot excludes a second training, shows foreign processes, and is free after a death."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from gpu_pools.names import asker, host_name
from gpu_pools.placement.host_state import HostState, Queues
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Start, Wait, place
from gpu_pools.placement.probe import Device, GpuProcess, Probe, foreign, get_probe
from gpu_pools.placement.queues import default_priority, device_queue
from gpu_pools.slots import lease
from gpu_pools.slots.local_slot import limits
from gpu_pools.stopping import pause
from tasks.trial.processes import Speaker
from tasks.trial.report import CheckResult, Place, checked, not_here

_POLL_S = 0.02
_BACK_WITHIN_S = 10.0  # the driver takes up to some seconds to clear the memory of a dead process
_SEEN_WITHIN_S = 10.0
_STARTED_WITHIN_S = 40.0
_MIB = 1024  # MiB that the dying process takes
_SPARE_MIB = 64  # MiB of the driver's own, which vary


def second_training(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Ask for the device once more than it takes trainings, without waiting."""
    yield kept_off(where, HostState(host_name(), get_probe()), limits())


def kept_off(where: Place, host: HostState, queues: Queues) -> CheckResult:
    """Return the row of a training that asks for a device that is full: placement and locks must refuse it.

    Args:
        where: the device; the caller holds a slot of it.
        host: that it is on.
        queues: with the limits set in Prefect.
    """
    asks = Waiting(
        *("trial-second", "second training", device_queue(where.tag, "training")),
        priority=default_priority("training"),
        since=time.time(),
        owner=asker(),
    )
    limit = host.limit(where.tag, "training", queues)
    with ExitStack() as more:  # than one training may be allowed: those slots are taken for this moment
        for _ in range(limit + 1):
            (decision,) = place([asks], host.devices(queues), host=host.name, now=time.time())
            taken = host.take(asks, [where.uuid], queues)
            if taken is None:
                break
            more.enter_context(taken)
        n_held = len(lease.holders(where.uuid, "training"))
    refused = isinstance(decision, Wait) and taken is None
    said = decision.reason if isinstance(decision, Wait) else "it was let in" if isinstance(decision, Start) else ""
    figure = f"{limit} at once; the next one: {said}"
    todo = "look at `yard limit` and at the folder of locks that `yard doctor` names: two runs would share this device"
    return checked("second training", refused, figure, todo, limit=limit, held=n_held)


def after_a_death(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Kill a process that holds a slot and memory of the device, and see how soon both are free."""
    probe = get_probe()
    words = ["--slot", where.uuid, where.tag, *(["--memory", str(_MIB)] if where.is_gpu else [])]
    before = _used_mib(probe, where)
    with Speaker("tasks.trial.stranger", *words, log=folder / "stranger.log") as stranger:
        pid = stranger.hear(_STARTED_WITHIN_S)["pid"]
        taken_mib = _used_mib(probe, where) - before
        stranger.kill()
        died = time.monotonic()
        slot_s = _until(lambda: pid not in {holder.pid for holder in lease.holders(where.uuid)}, died)
        back_s = _until(lambda: _used_mib(probe, where) <= before + _SPARE_MIB, died) if where.is_gpu else None
        left_mib = _used_mib(probe, where) - before
    yield death_row(where, slot_s=slot_s, taken_mib=taken_mib, back_s=back_s, left_mib=left_mib)


def death_row(
    where: Place, *, slot_s: float | None, taken_mib: int, back_s: float | None, left_mib: int
) -> CheckResult:
    """Return the row of a death.

    Args:
        where: the device.
        slot_s: seconds until the slot was free; None: it was not.
        taken_mib: of the GPU's memory, by the process that died.
        back_s: seconds until that was free; None: it was not, or this is no GPU.
        left_mib: that is still missing.
    """
    slot = f"slot free after {slot_s:.2f} s" if slot_s is not None else f"slot still held after {_BACK_WITHIN_S:.0f} s"
    good, memory = slot_s is not None, ""
    if where.is_gpu:
        good = good and back_s is not None and taken_mib >= _MIB
        memory = f", {taken_mib} MiB back after {back_s:.1f} s" if back_s is not None else f", {left_mib} MiB missing"
    todo = (
        "`nvidia-smi` says who has the memory; where nobody has it, the driver lost it: start the machine again"
        if slot_s is not None
        else "look at the folder of locks that `yard doctor` names: it must lie on a disk of this machine"
    )
    found = {"slot_s": slot_s, "memory_s": back_s, "taken_mib": taken_mib}
    return checked("after a death", good, slot + memory + f" (at most {_BACK_WITHIN_S:.0f} s)", todo, **found)


def foreign_process(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Start a process on the GPU that is no child of the run, and look for it as runs and workers do."""
    if not where.is_gpu:
        yield not_here("foreign process", "only GPUs say who computes on them")
        return
    # In a container, process 1 becomes the parent of every orphan, also of the stranger.
    probe, own = get_probe(), {os.getpid()} - {1}
    before = {process.pid for process in foreign(probe.device(where.uuid), own)}
    words = ["--detached", "--memory", "64"]
    with Speaker("tasks.trial.stranger", *words, log=folder / "stranger.log") as stranger:
        pid = stranger.hear(_STARTED_WITHIN_S)["pid"]
        begun, found = time.monotonic(), list[GpuProcess]()

        def seen() -> bool:
            found[:] = newcomers(probe.device(where.uuid), own, before)
            return bool(found)

        seen_s = _until(seen, begun, _SEEN_WITHIN_S)
    yield foreign_row(pid, found, seen_s)


def newcomers(device: Device, own: set[int], before: set[int]) -> list[GpuProcess]:
    """Return the processes on a GPU that are no run's and were not there before."""
    return [process for process in foreign(device, own) if process.pid not in before]


def foreign_row(pid: int, found: list[GpuProcess], seen_s: float | None) -> CheckResult:
    """Return the row of a foreign process `pid`, after `seen_s` seconds (None: never seen) seen as one of `found`."""
    if seen_s is None:
        todo = (
            "NVML shows no process here: in a container start it with `--pid=host`; until then others on this GPU are "
            "told by its memory only"
        )
        return CheckResult("foreign process", "failed", f"process {pid} on the GPU was not seen", todo)
    same = next((process for process in found if process.pid == pid), None)
    process = same or found[0]
    memory = "" if process.memory_mib is None else f", {process.memory_mib} MiB"
    figure = f"seen after {seen_s:.1f} s: {process.pid} ({process.name}) of {process.user}{memory}"
    values = {"seen_s": seen_s, "pid_is_ours": same is not None}
    if same is None:  # the numbers of another system's processes, as in a container
        return CheckResult(
            "foreign process", "ok", f"{figure}; not by its number here, {pid}, as in a container", values=values
        )
    return CheckResult("foreign process", "ok", figure, values=values)


def _used_mib(probe: Probe, where: Place) -> int:
    return probe.device(where.uuid).memory_used_mib if where.is_gpu else 0


def _until(is_so: Callable[[], bool], begun: float, limit_s: float = _BACK_WITHIN_S) -> float | None:
    """Return the seconds from `begun` until something is so; None: it was not within the limit."""
    while not is_so():
        if time.monotonic() - begun > limit_s:
            return None
        pause(_POLL_S)
    return time.monotonic() - begun
