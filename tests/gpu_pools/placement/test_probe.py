"""Which device a name means, and what is known of it; NVIDIA's library is the only thing made up."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pynvml
import pytest

from gpu_pools.placement.probe import (
    Device,
    GpuProcess,
    GpuSample,
    NvmlProbe,
    SimulatedProbe,
    environment,
    foreign,
    get_probe,
    resolve_device,
    visible,
)
from tasks.base.errors import ConfigError, GpuError


class Fixed(SimulatedProbe):
    """A probe of given devices."""

    def __init__(self, *devices: Device) -> None:
        super().__init__(0)
        self._devices = list(devices)


def gpu(index: int, *, n_processes: int = 0, used_mib: int = 0, busy: int = 0) -> Device:
    """Return a device of 24 GiB."""
    (device,) = SimulatedProbe(1).devices()
    processes = tuple(GpuProcess(pid, "ann", "python", 100) for pid in range(n_processes))
    return replace(
        device,
        index=index,
        uuid=f"GPU-{index}f",
        memory_used_mib=used_mib,
        utilisation_percent=busy,
        processes=processes,
    )


def test_cpu_needs_no_gpu():
    assert resolve_device("cpu", SimulatedProbe(0), {}) is None


def test_without_a_gpu_cuda_is_an_error_and_never_the_cpu():
    with pytest.raises(GpuError, match=r"found no GPU for device 'cuda'; have: cpu"):
        resolve_device("cuda", SimulatedProbe(0), {})


def test_a_device_that_is_not_there_names_those_that_are():
    with pytest.raises(GpuError, match=r"'cuda:2'.*have: cpu, cuda:0 \(simulated GPU 0\), cuda:1"):
        resolve_device("cuda:2", SimulatedProbe(2), {})


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", ""])
def test_a_misspelt_device_is_an_error(name):
    with pytest.raises(GpuError, match="need cpu, cuda or cuda:N"):
        resolve_device(name, SimulatedProbe(2), {})


@pytest.mark.parametrize(
    ("busier", "chosen"),
    [
        (gpu(0, n_processes=2), gpu(1, n_processes=1, used_mib=9000)),
        (gpu(0, n_processes=1, used_mib=500), gpu(1, n_processes=1, used_mib=400, busy=90)),
        (gpu(0, busy=50), gpu(1, busy=10)),
    ],
)
def test_cuda_is_the_least_loaded_by_processes_then_memory_then_utilisation(busier, chosen):
    assert resolve_device("cuda", Fixed(busier, chosen), {}) == chosen


def test_a_number_is_the_one_of_the_host():
    found = resolve_device("cuda:1", Fixed(gpu(0), gpu(1)), {"CUDA_VISIBLE_DEVICES": "1"})
    assert found is not None
    assert found.index == 1


def test_a_hidden_device_is_not_there():
    with pytest.raises(GpuError, match=r"'cuda:0' \(CUDA_VISIBLE_DEVICES=1\); have: cpu, cuda:1"):
        resolve_device("cuda:0", Fixed(gpu(0), gpu(1)), {"CUDA_VISIBLE_DEVICES": "1"})
    with pytest.raises(GpuError, match="found no GPU"):
        resolve_device("cuda", Fixed(gpu(0)), {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("1,0", [1, 0]),
        ("GPU-1f", [1]),
        ("GPU-1", [1]),
        ("GPU-", []),
        ("0,7,1", [0]),
    ],
)
def test_visible_devices_are_taken_as_cuda_takes_them(spec, left):
    assert [device.index for device in visible([gpu(0), gpu(1)], spec)] == left


def test_slices_of_a_gpu_are_refused():
    with pytest.raises(GpuError, match="MIG"):
        visible([gpu(0)], "MIG-1234")


def test_a_process_sees_its_one_device_or_none():
    assert environment([gpu(3)])["CUDA_VISIBLE_DEVICES"] == "GPU-3f"
    assert environment([])["CUDA_VISIBLE_DEVICES"] == ""


def test_simulated_devices_say_so():
    devices = get_probe({"TRAINYARD_SIMULATE_GPUS": "2"}).devices()
    assert [device.tag for device in devices] == ["cuda:0", "cuda:1"]
    assert all("simulated" in device.name for device in devices)


def test_a_number_of_devices_that_is_none_is_an_error():
    with pytest.raises(ConfigError, match="TRAINYARD_SIMULATE_GPUS='two'"):
        get_probe({"TRAINYARD_SIMULATE_GPUS": "two"})


def _driver(monkeypatch, **changes):
    """Stand in for NVIDIA's library with one GPU."""
    calls = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: 0,
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: "GPU-abc",
        "nvmlDeviceGetName": lambda handle: "NVIDIA X",
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
        "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(total=10 * 2**20, used=4 * 2**20, free=6 * 2**20),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=7, memory=1),
        "nvmlDeviceGetPowerUsage": lambda handle: 61500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 7_200_500,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 40,
        "nvmlDeviceGetComputeRunningProcesses": lambda h: [SimpleNamespace(pid=2**22 + 1, usedGpuMemory=3 * 2**20)],
        **changes,
    }
    for name, call in calls.items():
        monkeypatch.setattr(pynvml, name, call)


def raising(error):
    """Return a function that raises."""

    def call(*args):
        raise error

    return call


def test_figures_of_a_gpu_are_in_their_units(monkeypatch):
    _driver(monkeypatch)
    (device,) = NvmlProbe().devices()
    assert (device.tag, device.uuid, device.compute_capability) == ("cuda:0", "GPU-abc", "9.0")
    assert (device.memory_total_mib, device.memory_used_mib, device.memory_free_mib) == (10, 4, 6)
    assert (device.utilisation_percent, device.power_w, device.temperature_c) == (7, 61.5, 40)
    assert device.processes == (GpuProcess(2**22 + 1, "?", "?", 3),)
    assert NvmlProbe().device("GPU-abc") == device
    assert NvmlProbe().sample("GPU-abc") == GpuSample(7, 61.5, 7200.5, {2**22 + 1: 3})


def test_what_a_gpu_cannot_tell_is_none(monkeypatch):
    silent = raising(pynvml.NVMLError_NotSupported())
    _driver(
        monkeypatch,
        nvmlDeviceGetPowerUsage=silent,
        nvmlDeviceGetUtilizationRates=silent,
        nvmlDeviceGetTemperature=silent,
        nvmlDeviceGetMemoryInfo=silent,
        nvmlDeviceGetTotalEnergyConsumption=silent,
        nvmlDeviceGetComputeRunningProcesses=silent,
    )
    assert NvmlProbe().sample("GPU-abc") == GpuSample(None, None, None, {})
    (device,) = NvmlProbe().devices()
    assert (device.power_w, device.utilisation_percent, device.temperature_c) == (None, None, None)
    assert device.memory_total_mib > 0


def test_a_host_without_a_driver_has_no_gpu(monkeypatch):
    _driver(monkeypatch, nvmlInit=raising(pynvml.NVMLError_LibraryNotFound()))
    assert NvmlProbe().devices() == []
    with pytest.raises(GpuError, match="has no NVIDIA driver"):
        NvmlProbe().device("GPU-abc")


def test_a_driver_that_refuses_is_an_error_and_not_an_empty_host(monkeypatch):
    _driver(monkeypatch, nvmlInit=raising(pynvml.NVMLError_LibRmVersionMismatch()))
    with pytest.raises(GpuError, match="cannot use the GPUs of this host"):
        NvmlProbe().devices()
    _driver(monkeypatch, nvmlDeviceGetMemoryInfo=raising(pynvml.NVMLError_GpuIsLost()))
    with pytest.raises(GpuError, match="cannot read the GPUs"):
        NvmlProbe().devices()


def test_a_gpu_that_is_lost_leaves_the_others(monkeypatch, caplog):
    read = pynvml.nvmlDeviceGetHandleByIndex

    def handle(index):
        if index == 1:
            raise pynvml.NVMLError_GpuIsLost()
        return read(index)

    _driver(monkeypatch, nvmlDeviceGetCount=lambda: 2)
    read = pynvml.nvmlDeviceGetHandleByIndex
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    assert [device.index for device in NvmlProbe().devices()] == [0]
    assert "left out: GPU 1: NVIDIA's driver says" in caplog.text


@pytest.mark.gpu
def test_the_real_gpu_is_found_and_chosen():
    probe = NvmlProbe()
    chosen = resolve_device("cuda", probe, {})
    assert chosen is not None
    assert chosen.uuid.startswith("GPU-")
    assert 0 < chosen.memory_free_mib <= chosen.memory_total_mib
    assert probe.device(chosen.uuid).name == chosen.name


def occupying(*pids: int) -> Device:
    """Return a device on which these processes compute."""
    return replace(gpu(0), processes=tuple(GpuProcess(pid, "ben", "python", 100) for pid in pids))


def test_a_run_and_what_it_starts_are_not_foreign():
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert run.stdout is not None
    child = int(run.stdout.readline())
    try:
        device = occupying(run.pid, child)
        assert foreign(device, [run.pid]) == ()
        assert foreign(device, [os.getpid()]) == ()
        assert [process.pid for process in foreign(device, [])] == [run.pid, child]
        assert [process.pid for process in foreign(device, {child})] == [run.pid]
    finally:
        os.kill(child, signal.SIGKILL)
        run.kill()
        run.communicate()


def test_a_process_that_cannot_be_seen_from_here_is_foreign():
    assert [process.pid for process in foreign(occupying(2**22 + 1), [os.getpid()])] == [2**22 + 1]


def test_on_an_idle_gpu_nothing_is_foreign():
    assert foreign(gpu(0), []) == ()


def test_a_file_makes_simulated_devices_busy_and_is_read_at_every_call(tmp_path):
    state = tmp_path / "state.json"
    probe = get_probe({"TRAINYARD_SIMULATE_GPUS": "2", "TRAINYARD_SIMULATED_STATE": str(state)})
    assert [device.processes for device in probe.devices()] == [(), ()]
    process = {"pid": 1, "user": "ben", "name": "python", "memory_mib": 900}
    state.write_text(
        json.dumps({"cuda:1": {"processes": [process], "memory_used_mib": 900, "utilisation_percent": 50}})
    )
    idle, busy = probe.devices()
    assert (idle.processes, idle.memory_used_mib) == ((), 0)
    assert busy.processes == (GpuProcess(1, "ben", "python", 900),)
    assert (busy.memory_used_mib, busy.memory_free_mib, busy.utilisation_percent) == (900, 23676, 50)
    assert probe.device(busy.uuid) == busy
    state.write_text("{}")
    assert probe.device(busy.uuid).processes == ()


@pytest.mark.parametrize("text", ["", "[]", '{"cuda:0": 1}', '{"cuda:0": {"processes": [{"pid": 1}]}}'])
def test_a_file_of_simulated_devices_that_makes_no_sense_is_an_error_that_names_it(tmp_path, text):
    state = tmp_path / "state.json"
    state.write_text(text)
    with pytest.raises(ConfigError, match=r"state\.json"):
        SimulatedProbe(1, state).devices()
