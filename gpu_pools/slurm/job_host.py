"""The device that Slurm gave a job, as the yard's own worker sees those of its host."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from gpu_pools.names import host_name
from gpu_pools.placement.host_state import CPU, HostState, Queues
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.probe import Probe
from gpu_pools.placement.queues import Kind, Queue
from gpu_pools.slots import lease
from gpu_pools.slurm.request import HOST
from tasks.base.errors import GpuBusyError, GpuError

_GRACE_S = 30.0  # for a process before it that Slurm is still killing
_NO_LIMIT = 10_000


class JobHost(HostState):
    """A host that has what Slurm gave, and nothing else; how many share it is Slurm's to say.

    Args:
        probe: of the GPUs of the node.
        clock: Unix seconds.
    """

    def __init__(self, probe: Probe, clock: Callable[[], float] = time.time) -> None:
        super().__init__(HOST, probe, clock)
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            self._gpus = {}  # Slurm gave none, or does not say which: then none is this job's
        # Where Slurm hides the other GPUs, the driver counts those that are left from 0; Slurm knows the real number.
        numbers = os.environ.get("SLURM_JOB_GPUS", "").split(",")
        if len(numbers) == len(self._gpus) and all(number.isdecimal() for number in numbers):
            given = zip(numbers, self._gpus.values(), strict=True)
            self._gpus = {device.uuid: replace(device, index=int(number)) for number, device in given}
        self._busy_since: float | None = None

    def given(self, queue: Queue, n_devices: int) -> list[str]:
        """Return the devices for a run: the GPUs that Slurm gave, or the CPU.

        Args:
            queue: of the run.
            n_devices: that it computes on, where its queue is one of GPUs.

        Raises:
            GpuError: it got fewer.
        """
        if queue.device == CPU:
            return [CPU]
        if len(self._gpus) < n_devices:
            job, seen = os.environ.get("SLURM_JOB_ID", "?"), os.environ.get("CUDA_VISIBLE_DEVICES", "")
            raise GpuError(
                f"found {len(self._gpus)} GPUs in Slurm job {job} on {host_name()} (CUDA_VISIBLE_DEVICES={seen!r}), "
                f"need {n_devices}: gres.conf names their device files, File=/dev/nvidia[0-3], or AutoDetect=nvml"
            )
        return [*self._gpus][:n_devices]

    @property
    def threads(self) -> int:
        """Return how many cores the job has."""
        asked = os.environ.get("SLURM_CPUS_PER_TASK", "")
        return int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0))

    def limit(self, tag: str, kind: Kind, queues: Queues) -> int:
        """Return no limit: Slurm has decided."""
        return _NO_LIMIT

    def take(self, asks: Waiting, uuids: Collection[str], queues: Queues) -> lease.Lease | None:
        """Take the slots that guard the GPUs against others of this host; None: a process of before lets go soon.

        Raises:
            GpuBusyError: the yard's own worker, or a person, has the GPU that Slurm gave.
        """
        held = [holder for holder in lease.holders() if holder.uuid in uuids and holder.uuid != CPU]
        others = [holder for holder in held if holder.run_id != asks.run_id]
        if not others:
            self._busy_since = None
            return super().take(asks, uuids, queues)
        self._busy_since = self._busy_since or self._clock()
        if self._clock() - self._busy_since < _GRACE_S:
            return None
        first = others[0]
        raise GpuBusyError(
            f"Slurm gave {first.device} of {host_name()}, which run {first.run_name} of {first.owner} holds: a GPU "
            "belongs either to Slurm or to the yard's own worker (CUDA_VISIBLE_DEVICES of the worker hides it there)"
        )
