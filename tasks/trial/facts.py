"""Compares what the driver says of a device with what torch says."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pynvml
import torch

from gpu_pools.placement.probe import Device, get_probe
from tasks.trial.report import CheckResult, Place, Value, checked

_SPARE_SHARE = 0.1  # of the memory: the driver keeps some for itself, and only NVML counts it


def facts(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Say what the device is, and whether torch sees the one that was meant."""
    if where.is_gpu:
        yield gpu_row(get_probe().device(where.uuid), seen_by_torch(), _driver())
        return
    cores, gib = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    bf16 = bool(_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    figure = f"{cores} cores, {gib:.0f} GiB of memory, {'bf16' if bf16 else 'no bf16'}, torch {torch.__version__}"
    if where.uuid != "cpu":
        figure = f"simulated, so the CPU: {figure}"
    yield CheckResult("device", "ok", figure, values={"cores": cores, "memory_gib": gib, "bf16": bf16})


def _flags() -> set[str]:
    """Return what the processor says it can do."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}


def seen_by_torch() -> dict[str, object]:
    """Return what torch has to say of the only GPU it sees."""
    found = torch.cuda.get_device_properties(0)
    return {
        "n": torch.cuda.device_count(),
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_mib": found.total_memory // 2**20,
        "uuid": f"GPU-{found.uuid}",
        "sum": float(torch.ones(1000, device="cuda").sum()),
    }


def _driver() -> str:
    pynvml.nvmlInit()
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return f"{pynvml.nvmlSystemGetDriverVersion()} (CUDA {cuda // 1000}.{cuda % 1000 // 10})"


def gpu_row(device: Device, seen: dict[str, object], driver: str) -> CheckResult:
    """Return the row of a GPU.

    Args:
        device: as NVML has it.
        seen: as `seen_by_torch` has it.
        driver: its version.
    """
    memory = int(str(seen["memory_mib"]))
    pairs = {
        "uuid": (device.uuid, seen["uuid"]),
        "name": (device.name, seen["name"]),
        "compute capability": (device.compute_capability, seen["capability"]),
    }
    wrong = [f"{name}: NVML {one}, torch {other}" for name, (one, other) in pairs.items() if one != other]
    if abs(memory - device.memory_total_mib) > _SPARE_SHARE * device.memory_total_mib:
        wrong.append(f"memory: NVML {device.memory_total_mib} MiB, torch {memory} MiB")
    if seen["n"] != 1:
        wrong.append(f"torch sees {seen['n']} GPUs, need one")
    if seen["sum"] != 1000.0:
        wrong.append(f"a sum of a thousand ones is {seen['sum']}")
    kept = f"{device.name}, {memory} MiB, compute capability {device.compute_capability}"
    figure = f"{kept}, driver {driver}, torch {torch.__version__} for CUDA {torch.version.cuda}"
    if wrong:
        figure = "; ".join(wrong)
    todo = (
        "unset CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, or start the machine again; `yard devices` has NVML's view"
    )
    values: dict[str, Value] = {"name": device.name, "memory_mib": memory, "uuid": device.uuid, "driver": driver}
    return checked("device", not wrong, figure, todo, **values)
