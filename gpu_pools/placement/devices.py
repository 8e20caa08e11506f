"""What is known of a GPU; also simulated GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_SIMULATED = "GPU-simulated-"
_IDLE_W, _BUSY_W = 60.0, 300.0  # of one that does not exist: about what one of its size draws


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    user: str  # "?": not a process this one can see, as between containers
    name: str
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as it is now."""

    index: int  # the host's own number, whatever CUDA_VISIBLE_DEVICES says
    uuid: str
    name: str
    compute_capability: str
    memory_total_mib: int
    memory_used_mib: int
    memory_free_mib: int
    utilisation_percent: int | None
    power_w: float | None
    temperature_c: int | None
    processes: tuple[GpuProcess, ...]

    @property
    def tag(self) -> str:
        """The name people use: cuda:0."""
        return f"cuda:{self.index}"

    @property
    def simulated(self) -> bool:
        """Whether there is no such hardware: what runs on it computes on the CPU."""
        return self.uuid.startswith(_SIMULATED)

    @property
    def load(self) -> tuple[int, int, int, int]:
        """Sorts devices by how busy they are: processes, then memory, then utilisation, then number."""
        return (len(self.processes), self.memory_used_mib, self.utilisation_percent or 0, self.index)


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What changes of a GPU from moment to moment; None where it cannot tell.

    Args:
        utilisation_percent: 0 to 100.
        power_w: that it draws.
        energy_j: that it has drawn since its driver was loaded.
        memory_mib: process id -> device memory.
    """

    utilisation_percent: int | None
    power_w: float | None
    energy_j: float | None
    memory_mib: Mapping[int, int | None]


def listed(devices: Sequence[Device]) -> str:
    """Return the devices for a message."""
    return ", ".join(f"{device.tag} ({device.name})" for device in devices) or "none"


def simulated(index: int) -> Device:
    """Return an idle GPU of 24 GiB that does not exist."""
    return Device(
        index=index,
        uuid=f"{_SIMULATED}{index}",
        name=f"simulated GPU {index}",
        compute_capability="0.0",
        memory_total_mib=24576,
        memory_used_mib=0,
        memory_free_mib=24576,
        utilisation_percent=0,
        power_w=_IDLE_W,
        temperature_c=None,
        processes=(),
    )


def occupied(device: Device, state: Mapping[str, Any]) -> Device:
    """Return a simulated GPU in use, as a file says.

    Args:
        device: an idle one.
        state: `processes` (pid, user, name, memory_mib), `memory_used_mib`, `utilisation_percent`, `temperature_c`;
            what is missing is as on the idle one.

    Raises:
        TypeError: a process has other fields.
    """
    used = int(state.get("memory_used_mib", device.memory_used_mib))
    percent = state.get("utilisation_percent", device.utilisation_percent)
    return replace(
        device,
        processes=tuple(GpuProcess(**process) for process in state.get("processes", [])),
        memory_used_mib=used,
        memory_free_mib=device.memory_total_mib - used,
        utilisation_percent=percent,
        temperature_c=state.get("temperature_c", device.temperature_c),
        power_w=None if percent is None else _IDLE_W + (_BUSY_W - _IDLE_W) * percent / 100,
    )
