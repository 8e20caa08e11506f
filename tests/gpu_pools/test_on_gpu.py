"""What a real driver does, as far as that can be brought about; the same on simulated GPUs where they have the path."""

import json
import os
import signal
import subprocess
import sys
import time

import pynvml
import pytest

from gpu_pools.placement import intruders
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import NvmlProbe, SimulatedProbe, resolve_device, visible
from tasks.base.errors import GpuError

GPU = pytest.param("nvml", marks=pytest.mark.gpu)
PROBES = pytest.mark.parametrize("kind", ["simulated", GPU])

HOLDS = """
import sys, time
if sys.argv[1] == "nvml":
    import torch
    held = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
print("holds", flush=True)
time.sleep(600)
"""


class Bench:
    """One GPU, real or simulated, and a process that holds a GiB of it."""

    def __init__(self, kind, tmp_path):
        self.kind, self._state = kind, tmp_path / "gpus.json"
        self.probe = NvmlProbe() if kind == "nvml" else SimulatedProbe(1, self._state)
        self.uuid = self.probe.devices()[0].uuid
        self.holder = subprocess.Popen([sys.executable, "-c", HOLDS, kind], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "holds\n"
        self.say(1024)

    def say(self, mib):
        """Let the simulated driver name the process, for as long as the real one does."""
        process = {"pid": self.holder.pid, "user": "ben", "name": "python", "memory_mib": mib}
        listed = [process] if mib else []
        self._state.write_text(json.dumps({"cuda:0": {"processes": listed, "memory_used_mib": mib}}))

    def device(self):
        return self.probe.device(self.uuid)

    def names_holder(self):
        return self.holder.pid in [process.pid for process in self.device().processes]


@pytest.fixture
def bench(kind, tmp_path, monkeypatch):
    if kind == "nvml":
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", NvmlProbe().devices()[0].uuid)
    made = Bench(kind, tmp_path)
    yield made
    made.holder.kill()
    made.holder.communicate()


@PROBES
def test_memory_that_a_dead_process_still_holds_is_nobody_s_and_is_free_soon(bench):
    if not bench.names_holder():
        pytest.skip("the driver's process numbers are not those of this system")
    before = bench.device().memory_used_mib
    bench.holder.kill()
    bench.holder.wait()
    assert intruders.look(bench.device(), []).seen == ()  # listed still or not: there is no such process any more
    deadline = time.monotonic() + 15
    while bench.device().memory_used_mib > before - 900:
        assert time.monotonic() < deadline, f"{bench.device().memory_used_mib} MiB of {before} are still taken"
        bench.say(0)  # the simulated one is as slow as this line
        time.sleep(0.05)


@PROBES
def test_a_stopped_process_keeps_its_memory_and_is_seen(bench):
    if not bench.names_holder():
        pytest.skip("the driver's process numbers are not those of this system")
    os.kill(bench.holder.pid, signal.SIGSTOP)
    (found,) = [process for process in intruders.look(bench.device(), []).seen if process.pid == bench.holder.pid]
    assert found.memory_mib >= 1024
    assert bench.holder.pid not in [process.pid for process in intruders.beside_me(bench.probe, bench.uuid).seen]


@PROBES
def test_a_gpu_that_falls_off_the_bus_takes_no_runs_and_comes_back(kind, tmp_path, monkeypatch):
    probe = NvmlProbe() if kind == "nvml" else SimulatedProbe(1)
    host, read = HostState("boxa", probe), probe.device

    def lost(*args):
        raise pynvml.NVMLError_GpuIsLost() if kind == "nvml" else GpuError("cannot read GPU: GPU is lost")

    with monkeypatch.context() as patch:
        patch.setattr(*((pynvml, "nvmlDeviceGetHandleByUUID") if kind == "nvml" else (probe, "device")), lost)
        first, *_ = host.devices({})
        assert "cannot read GPU" in first.fault
        with pytest.raises(GpuError, match="cannot read GPU"):
            intruders.beside_me(probe, first.uuid)
    first, *_ = host.devices({})
    assert (first.fault, read(first.uuid).uuid) == (None, first.uuid)


@PROBES
def test_a_slice_of_a_gpu_is_refused_whatever_gpus_there_are(kind):
    probe = NvmlProbe() if kind == "nvml" else SimulatedProbe(2)
    devices = probe.devices()
    for name in ["MIG-b3c9d8a7-6b1f-5a6e-9d3a-0c5d8a1f2e47", f"MIG-{devices[0].uuid}/7/0", *slices(kind)]:
        with pytest.raises(GpuError, match=rf"found CUDA_VISIBLE_DEVICES={name}, need whole GPUs: slices \(MIG\)"):
            resolve_device("cuda", probe, {"CUDA_VISIBLE_DEVICES": name})
    assert [device.uuid for device in visible(devices, devices[0].uuid)] == [devices[0].uuid]


def slices(kind) -> list[str]:
    """Return the identifiers of the slices that the first GPU of this host is cut into; usually none."""
    found: list[str] = []
    if kind == "nvml":
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        try:
            for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                found.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NotFound):  # cannot be cut, or is not
            pass
    return found


@pytest.mark.parametrize("there", [False, pytest.param(True, marks=pytest.mark.gpu)])
def test_without_nvml_no_gpu_is_taken_though_cuda_may_see_one(there, monkeypatch):
    def missing():
        raise pynvml.NVMLError_LibraryNotFound()

    if there:
        import torch

        assert torch.cuda.is_available()
    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(GpuError, match=f"found no GPU for device '{name}'.*have: cpu"):
            resolve_device(name, NvmlProbe(), {})
    assert resolve_device("cpu", NvmlProbe(), {}) is None
    assert HostState("boxa", NvmlProbe()).tags == ["cpu"]
