"""A block of a person's own Python holds a slot as a run does, and however it ends, the slot is free."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from deployments import yard_gpu as module
from deployments.runs.find import list_runs
from deployments.yard_gpu import yard_gpu
from gpu_pools.slots.lease import Holder, acquire, holders
from tasks.base.errors import ConfigError, GpuBusyError, GpuError

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A home without a server, on a host with two GPUs."""
    for name in ("CUDA_VISIBLE_DEVICES", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setattr(module, "_used", [])
    return tmp_path


def taken():
    holder = Holder("r", "other", "anna@boxa", "cuda:1", "GPU-simulated-1", "training", -1, os.getpid(), 0.0, None)
    return acquire("GPU-simulated-1", "training", 1, holder)


def test_the_block_sees_one_gpu_and_its_mlflow_run(home):
    with yard_gpu("cuda:1", name="mine") as gpu:
        assert (gpu.slot, gpu.device) == ("cuda:1", "cpu")  # a simulated one computes on the CPU
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-simulated-1"
        assert [(holder.run_name, holder.device) for holder in holders()] == [("mine", "cuda:1")]
        uri, run_id = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_RUN_ID"]
        with yard_gpu() as again:  # as under `yard exec`
            assert again.slot == "cuda:1"
        assert MlflowClient(uri).get_run(run_id).info.status == "RUNNING"
    assert holders() == []
    assert not {"CUDA_VISIBLE_DEVICES", "MLFLOW_RUN_ID", "TRAINYARD_LEASE"} & os.environ.keys()
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"


def test_a_taken_device_is_an_error_for_who_does_not_wait():
    with (
        taken(),
        pytest.raises(GpuBusyError, match="cuda:1 is training other of anna@boxa"),
        yard_gpu("cuda:1", wait=False),
    ):
        pass
    with pytest.raises(GpuError, match="found no device 'cuda:7'"), yard_gpu("cuda:7"):
        pass
    with pytest.raises(ConfigError, match="found priority 11"), yard_gpu(priority=11):
        pass


def test_it_works_beside_a_running_event_loop_and_in_a_thread():
    found = []

    async def cell():
        with yard_gpu("cuda:0") as gpu:
            found.append(gpu.slot)

    def work():
        with yard_gpu("cuda:1") as gpu:
            found.append(gpu.slot)

    before = signal.getsignal(signal.SIGINT)
    asyncio.run(cell())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["cuda:0", "cuda:1"]
    assert signal.getsignal(signal.SIGINT) is before


def test_two_threads_cannot_have_two_gpus():
    errors = []

    def work():
        try:
            with yard_gpu("cuda:1"):
                pass
        except ConfigError as exc:
            errors.append(str(exc))

    with yard_gpu("cuda:0"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert errors == ["found another thread in a yard_gpu block, need one at a time: a process sees one GPU"]


def test_cuda_must_not_be_initialised_unless_by_a_block_before(monkeypatch):
    monkeypatch.setattr(module, "cuda_is_initialised", lambda: True)
    with pytest.raises(GpuError, match="CUDA is initialised in this process"), yard_gpu("cuda"):
        pass
    with yard_gpu("cpu"):
        pass
    monkeypatch.setattr(module, "_used", ["cuda:1"])
    with yard_gpu("cuda") as gpu:
        assert gpu.slot == "cuda:1"  # the one that it has computed on
    with pytest.raises(GpuError, match="it computes on cuda:1"), yard_gpu("cuda:0"):
        pass


def test_without_a_driver_cuda_is_not_initialised():
    assert not module.cuda_is_initialised()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_dies_frees_its_slot(how):
    code = "import time\nfrom deployments.yard_gpu import yard_gpu\n"
    code += "with yard_gpu('cuda:0'):\n    print('holds', flush=True)\n    time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"holds\n"
        assert len(holders()) == 1
        process.send_signal(how)
        process.wait(60)
    deadline = time.monotonic() + 10
    while holders() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holders() == []


def test_the_example_of_the_page(home):
    script = re.search(r"```python\n(from deployments.yard_gpu.*?)```", PAGE.read_text(), re.S)[1]
    (home / "my_cell.py").write_text(script)
    done = subprocess.run([sys.executable, "my_cell.py"], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"loss \d\.\d+ on cuda:[01]", done.stdout)


def test_it_is_a_run_in_prefect_with_its_end(home, yard):
    with yard_gpu("cuda:1", name="mine", priority=2):
        (row,) = list_runs(yard.api, types=("RUNNING",))
        assert (row.name, row.device, row.priority, row.state) == ("mine", "cuda:1", 2, "Running")
    with pytest.raises(ZeroDivisionError), yard_gpu("cuda:1", name="breaks"):
        1 / 0  # noqa: B018
    rows = {row.name: (row.state, row.message.partition("; ")[2] or row.message) for row in list_runs(yard.api)}
    assert rows["mine"][0] == "Completed"
    assert rows["breaks"] == ("Failed", "ZeroDivisionError: division by zero")
