"""Reads the devices of this host and their load, and resolves names such as `cuda:1`."""

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
import pynvml

from gpu_pools.placement.devices import Device, GpuProcess, GpuSample, listed, occupied, simulated
from tasks.base.errors import ConfigError, GpuError

__all__ = [
    "Device",
    "GpuProcess",
    "GpuSample",
    "NvmlProbe",
    "Probe",
    "SimulatedProbe",
    "belongs",
    "environment",
    "foreign",
    "get_probe",
    "resolve_device",
    "visible",
]

logger = logging.getLogger("trainyard.worker")

T = TypeVar("T")

_MIB = 2**20


class Probe(Protocol):
    """Something that knows the GPUs of this host."""

    def devices(self) -> list[Device]:
        """Return every GPU of the host; none where there is no GPU or no driver."""
        ...

    def device(self, uuid: str) -> Device:
        """Return one GPU, faster than all of them."""
        ...

    def sample(self, uuid: str) -> GpuSample:
        """Return what changes of one GPU from moment to moment, faster than all that is known of it."""
        ...

    def process_utilisation(self, uuid: str) -> Mapping[int, int] | None:
        """Return process -> percent of one GPU's multiprocessors in the last seconds; None: it cannot tell."""
        ...


class NvmlProbe:
    """The real GPUs, through NVIDIA's management library; CUDA itself is not touched."""

    def __init__(self) -> None:
        self._present: bool | None = None

    def devices(self) -> list[Device]:
        """Return every GPU that answers.

        Raises:
            GpuError: the driver is there but refuses, as after an upgrade without a restart, or no GPU answers.
        """
        if not self._open():
            return []
        try:
            n_gpus = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            raise GpuError(f"cannot read the GPUs of this host: NVIDIA's driver says {exc}") from exc
        found, faults = [], []
        for index in range(n_gpus):
            try:
                found.append(_read(pynvml.nvmlDeviceGetHandleByIndex(index)))
            except pynvml.NVMLError as exc:
                faults.append(f"GPU {index}: NVIDIA's driver says {exc}")
        if faults and not found:
            raise GpuError(f"cannot read the GPUs of this host: {'; '.join(faults)}")
        for fault in faults:
            logger.error("left out: %s", fault)
        return found

    def device(self, uuid: str) -> Device:
        """Return the GPU `uuid`.

        Raises:
            GpuError: there is none, or it does not answer.
        """
        return self._ask(uuid, _read)

    def sample(self, uuid: str) -> GpuSample:
        """Return how busy the GPU `uuid` is, what it draws, and who has how much of its memory.

        Raises:
            GpuError: there is none, or it does not answer.
        """
        return self._ask(uuid, _sample)

    def process_utilisation(self, uuid: str) -> Mapping[int, int] | None:
        """Return process -> percent of the multiprocessors of the GPU `uuid`; the driver keeps some seconds of it.

        Raises:
            GpuError: there is no such GPU, or it does not answer.
        """
        return self._ask(uuid, _process_utilisation)

    def _ask(self, uuid: str, question: Callable[[Any], T]) -> T:
        if not self._open():
            raise GpuError(f"found no GPU, need {uuid}: this host has no NVIDIA driver")
        try:
            return question(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        except pynvml.NVMLError as exc:
            raise GpuError(f"cannot read GPU {uuid}: NVIDIA's driver says {exc}") from exc

    def _open(self) -> bool:
        if self._present is None:
            try:
                pynvml.nvmlInit()
                self._present = True
            except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
                self._present = False
            except pynvml.NVMLError as exc:
                raise GpuError(f"cannot use the GPUs of this host: NVIDIA's driver says {exc}") from exc
        return self._present


class SimulatedProbe:
    """Devices that do not exist, for trying and for tests; their names say so.

    Args:
        n_devices: how many.
        state: a JSON file, read at every call, that makes them busy; one that is not there leaves them idle:
            {"cuda:0": {"processes": [{"pid": 1, "user": "ben", "name": "python", "memory_mib": 900}],
            "memory_used_mib": 900, "utilisation_percent": 50}}
    """

    def __init__(self, n_devices: int, state: Path | None = None) -> None:
        self._devices = [simulated(index) for index in range(n_devices)]
        self._state = state

    def devices(self) -> list[Device]:
        """Return all of them.

        Raises:
            ConfigError: the file cannot be used.
        """
        if self._state is None or not self._state.is_file():
            return list(self._devices)
        try:
            state = json.loads(self._state.read_text())
            return [occupied(device, state.get(device.tag, {})) for device in self._devices]
        except (ValueError, TypeError, AttributeError) as exc:
            raise ConfigError(f"found no state of simulated GPUs in {self._state} ({exc}), need JSON") from exc

    def device(self, uuid: str) -> Device:
        """Return the one called `uuid`.

        Raises:
            GpuError: there is none.
        """
        for device in self.devices():
            if device.uuid == uuid:
                return device
        raise GpuError(f"found no GPU {uuid}, have: {listed(self._devices)}")

    def sample(self, uuid: str) -> GpuSample:
        """Return how busy the one called `uuid` is; it has no counter of its energy, as old GPUs."""
        found = self.device(uuid)
        memory = {process.pid: process.memory_mib for process in found.processes}
        return GpuSample(found.utilisation_percent, found.power_w, None, memory)

    def process_utilisation(self, uuid: str) -> Mapping[int, int] | None:
        """Return None: the file says nothing of it."""
        return None


def get_probe(environ: Mapping[str, str] = os.environ) -> Probe:
    """Return the probe of this host; TRAINYARD_SIMULATE_GPUS=2 makes two up, TRAINYARD_SIMULATED_STATE their load.

    Raises:
        ConfigError: TRAINYARD_SIMULATE_GPUS is not a number.
    """
    wanted = environ.get("TRAINYARD_SIMULATE_GPUS", "").strip()
    if not wanted:
        return NvmlProbe()
    if not wanted.isdigit():
        raise ConfigError(f"found TRAINYARD_SIMULATE_GPUS={wanted!r}, need a number of devices, 0 or more")
    state = environ.get("TRAINYARD_SIMULATED_STATE")
    return SimulatedProbe(int(wanted), Path(state) if state else None)


def resolve_device(device: str, probe: Probe, environ: Mapping[str, str] = os.environ) -> Device | None:
    """Return the GPU a name means, or None for the CPU. A name that means no device is never another one.

    Args:
        device: `cpu`, `cuda` (the least loaded GPU: fewest processes, then least memory, then utilisation) or
            `cuda:N` with the host's own number.
        probe: of this host.
        environ: CUDA_VISIBLE_DEVICES, if set, hides the GPUs it does not name.

    Raises:
        GpuError: there is no such device; names those that exist.
    """
    if device == "cpu":
        return None
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise GpuError(f"found device {device!r}, need cpu, cuda or cuda:N")
    spec = environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible(probe.devices(), spec)
    limited = "" if spec is None else f" (CUDA_VISIBLE_DEVICES={spec})"
    if not devices:
        raise GpuError(f"found no GPU for device {device!r}{limited}; have: cpu")
    if device == "cuda":
        return min(devices, key=lambda found: found.load)
    for found in devices:
        if found.tag == device:
            return found
    raise GpuError(f"found no device {device!r}{limited}; have: cpu, {listed(devices)}")


def visible(devices: Sequence[Device], spec: str | None) -> list[Device]:
    """Return the devices a value of CUDA_VISIBLE_DEVICES leaves, in its order.

    Numbers are taken in the order of the PCI bus; what follows an entry that names no device is hidden, as
    CUDA has it.

    Raises:
        GpuError: it names a slice of a GPU (MIG), which is not supported.
    """
    if spec is None:
        return list(devices)
    chosen: list[Device] = []
    for entry in (part.strip() for part in spec.split(",")):
        if entry.startswith("MIG-"):
            raise GpuError(f"found CUDA_VISIBLE_DEVICES={spec}, need whole GPUs: slices (MIG) are not supported")
        found = [d for d in devices if _is_named(d, entry)]
        if len(found) != 1:
            break
        chosen += found
    return chosen


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables under which a process sees these devices alone, in their order; on the CPU none."""
    visible_devices = ",".join(device.uuid for device in devices)
    return {"CUDA_VISIBLE_DEVICES": visible_devices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def foreign(device: Device, own_pids: Collection[int]) -> tuple[GpuProcess, ...]:
    """Return the processes on a GPU that are not one of `own_pids` and descend from none of them."""
    return tuple(process for process in device.processes if not belongs(process.pid, own_pids))


def belongs(pid: int, own: Collection[int]) -> bool:
    """Return whether a process is one of `own`, or descends from one of them."""
    if pid in own:
        return True
    try:
        return any(parent.pid in own for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False  # not to be seen from here, as in another container: not one that was started here


def _is_named(device: Device, entry: str) -> bool:
    if entry.isdigit():
        return device.index == int(entry)
    return entry.startswith("GPU-") and device.uuid.startswith(entry)  # CUDA takes the beginning of a UUID, too


def _read(handle: Any) -> Device:
    total, used, free = _memory_mib(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    utilisation = _if_supported(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _if_supported(pynvml.nvmlDeviceGetPowerUsage, handle)
    return Device(
        index=pynvml.nvmlDeviceGetIndex(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        compute_capability=f"{major}.{minor}",
        memory_total_mib=total,
        memory_used_mib=used,
        memory_free_mib=free,
        utilisation_percent=None if utilisation is None else utilisation.gpu,
        power_w=None if power_mw is None else power_mw / 1000,
        temperature_c=_if_supported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        processes=_processes(handle),
    )


def _sample(handle: Any) -> GpuSample:
    utilisation = _if_supported(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _if_supported(pynvml.nvmlDeviceGetPowerUsage, handle)
    energy_mj = _if_supported(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)  # since Volta
    running = _if_supported(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return GpuSample(
        utilisation_percent=None if utilisation is None else utilisation.gpu,
        power_w=None if power_mw is None else power_mw / 1000,
        energy_j=None if energy_mj is None else energy_mj / 1000,
        memory_mib={process.pid: _in_mib(process.usedGpuMemory) for process in running},
    )


def _in_mib(n_bytes: int | None) -> int | None:
    return None if n_bytes is None else n_bytes // _MIB


def _memory_mib(handle: Any) -> tuple[int, int, int]:
    memory = _if_supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is None:  # a GPU that shares the host's memory has none of its own to report
        host = psutil.virtual_memory()
        return host.total // _MIB, (host.total - host.available) // _MIB, host.available // _MIB
    return memory.total // _MIB, memory.used // _MIB, memory.free // _MIB


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    running = _if_supported(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    found = []
    for process in running:
        user, name = _owner(process.pid)
        found.append(GpuProcess(process.pid, user, name, _in_mib(process.usedGpuMemory)))
    return tuple(found)


def _process_utilisation(handle: Any) -> dict[int, int] | None:
    try:
        samples = _if_supported(pynvml.nvmlDeviceGetProcessUtilization, handle, 0)
    except pynvml.NVMLError_NotFound:  # nothing has computed lately
        return {}
    if samples is None:
        return None
    found: dict[int, int] = {}
    for sample in samples:
        found[sample.pid] = max(found.get(sample.pid, 0), sample.smUtil)
    return found


def _owner(pid: int) -> tuple[str, str]:
    try:
        process = psutil.Process(pid)
        return process.username(), process.name()
    except (psutil.Error, KeyError):  # gone, of another user or container, or a user id without a name
        return "?", "?"


def _if_supported(read: Any, *args: Any) -> Any:
    try:
        return read(*args)
    except pynvml.NVMLError_NotSupported:
        return None
