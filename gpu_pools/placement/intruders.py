"""Finds processes on a run's GPU that belong to no run."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import dropwhile

import psutil

from gpu_pools.placement.probe import Device, GpuProcess, Probe, foreign
from gpu_pools.slots import lease

_FLAGS = frozenset({"-B", "-E", "-I", "-O", "-P", "-s", "-u"})  # Python's, that take no argument


@dataclass(frozen=True, slots=True)
class ProcessSnapshot:
    """Who else was on a GPU at one moment."""

    found: tuple[GpuProcess, ...]  # as the driver names them
    seen: tuple[GpuProcess, ...]  # those of them that this system has

    @property
    def certain(self) -> bool:
        """Whether all are known here: one may have just ended, or the numbers be those of the host of a container."""
        return self.seen == self.found


def look(device: Device, own_pids: Collection[int]) -> ProcessSnapshot:
    """Return which processes on a GPU neither are one of `own_pids` nor descend from one."""
    found = foreign(device, own_pids)
    return ProcessSnapshot(found, tuple(process for process in found if psutil.pid_exists(process.pid)))


def memory_of(device: Device, pids: Mapping[str, int]) -> dict[str, int]:
    """Return how much of a GPU's memory, MiB, runs have, without those of which no process is seen on it.

    Args:
        device: the GPU as it is now.
        pids: run id -> its process; what that has started counts, too.
    """
    found: Counter[str] = Counter()
    for process in device.processes if pids else ():
        above = {process.pid, *_above(process.pid)}
        for run_id, pid in pids.items():
            if pid in above and process.memory_mib is not None:
                found[run_id] += process.memory_mib
    return dict(found)


def _above(pid: int) -> list[int]:
    try:
        return [parent.pid for parent in psutil.Process(pid).parents()]
    except psutil.Error:
        return []  # gone, or not to be seen from here


def beside_me(probe: Probe, uuid: str) -> ProcessSnapshot:
    """Return who is on the GPU of the run that this process is.

    Raises:
        GpuError: it does not answer.
        StorageError: the locks cannot be read.
    """
    # The slots are read first: a run that takes one later has nothing on the GPU yet.
    own_pids = [os.getpid(), *(holder.pid for holder in lease.holders())]
    return look(probe.device(uuid), own_pids)


def command(process: GpuProcess) -> str:
    """Return "python train.py": the program and its script; other arguments may hold what is not for everyone."""
    try:
        argv = psutil.Process(process.pid).cmdline()
    except psutil.Error:  # gone, or not to be seen from here
        return process.name
    words = list(dropwhile(_FLAGS.__contains__, argv[1:]))
    words = words[1:2] if words[:1] == ["-m"] else [word for word in words[:1] if not word.startswith("-")]
    script = os.path.basename(words[0]) if words and process.name.startswith("python") else ""
    return f"{process.name} {script}".strip()
