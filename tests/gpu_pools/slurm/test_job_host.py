import os

import pytest

from gpu_pools.placement.order import Waiting
from gpu_pools.placement.probe import SimulatedProbe
from gpu_pools.placement.queues import Queue
from gpu_pools.slots import lease
from gpu_pools.slots.slot_files import Holder
from gpu_pools.slurm.job_host import JobHost
from gpu_pools.slurm.request import HOST
from tasks.base.errors import GpuBusyError, GpuError

GPU, CPU = Queue("cuda", "training", HOST), Queue("cpu", "training", HOST)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A function that makes the host of a job: what Slurm says of its GPUs, and a clock."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)

    def make(n_gpus=4, clock=lambda: 1e9, **env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return JobHost(SimulatedProbe(n_gpus), clock)

    return make


def asks(queue=GPU):
    return Waiting("r", "name", queue, 5, 0.0, "anna@boxa")


def held_by(run, uuid):
    holder = Holder(run, "resnet", "ben@boxa", "cuda:2", uuid, "training", -1, os.getpid(), 0.0, None)
    return lease.acquire(uuid, "training", 1, holder)


def test_the_gpus_that_slurm_gave_are_the_runs(given):
    host = given(CUDA_VISIBLE_DEVICES="2,3", SLURM_JOB_GPUS="2,3")
    uuids = host.given(GPU, 2)
    assert uuids == ["GPU-simulated-2", "GPU-simulated-3"]
    with host.take(asks(), uuids, {}) as slots:
        assert slots.tag == "cuda:2,cuda:3"
    assert host.given(CPU, 1) == ["cpu"]


def test_a_gpu_has_the_number_that_slurm_knows_where_it_hides_the_others(given):
    host = given(n_gpus=1, CUDA_VISIBLE_DEVICES="0", SLURM_JOB_GPUS="5")
    assert host.tags == ["cuda:5", "cpu"]


@pytest.mark.parametrize("env", [{}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_a_job_without_a_gpu_takes_none(given, env):
    with pytest.raises(GpuError, match="found 0 GPUs in Slurm job"):
        given(**env).given(GPU, 1)


def test_a_slice_of_a_gpu_is_refused(given):
    with pytest.raises(GpuError, match="MIG"):
        given(CUDA_VISIBLE_DEVICES="MIG-1234")


def test_the_cores_are_those_of_the_job(given):
    assert given(SLURM_CPUS_PER_TASK="7").threads == 7


def test_who_holds_the_gpu_is_named_after_a_while(given):
    now = [1e9]
    host = given(CUDA_VISIBLE_DEVICES="2", clock=lambda: now[0])
    with held_by("other", "GPU-simulated-2"):
        assert host.take(asks(), host.given(GPU, 1), {}) is None
        now[0] += 60
        with pytest.raises(GpuBusyError, match="gave cuda:2 of .*, which run resnet of ben@boxa holds"):
            host.take(asks(), host.given(GPU, 1), {})
    with host.take(asks(), host.given(GPU, 1), {}) as slots:
        assert slots.tag == "cuda:2"
