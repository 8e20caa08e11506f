"""Tells for how long the processes of a run have used neither a CPU nor its GPUs."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from gpu_pools.placement.probe import Probe
from tasks.base.errors import GpuError

BUSY_CORES = 0.05
"""Less than that of one core is what programs take that wait: a shell, a notebook's server, a run's own clockwork."""

_PROC = Path("/proc")
_TERMINALS = Path("/dev/pts")
_PSEUDO_TERMINALS = 136  # the major number of their devices
_TICKS = os.sysconf("SC_CLK_TCK")

Times = Mapping[tuple[int, str], float]


class Activity:
    """Call `idle_s` every few seconds.

    Args:
        probe: reads the GPUs.
        uuids: of the run's GPUs; empty: it has none.
        clock: seconds.
    """

    def __init__(self, probe: Probe, uuids: Sequence[str], clock: Callable[[], float]) -> None:
        self._probe, self._uuids, self._clock = probe, tuple(uuids), clock
        self._used_at = self._looked_at = clock()
        self._times: Times = {}

    def idle_s(self, pids: Iterable[int]) -> float:
        """Return for how many seconds the processes of a run have used nothing, as far as looks tell.

        Args:
            pids: of all of its processes that are there now.
        """
        own, now = frozenset(pids), self._clock()
        if self._uses_cpu(own, now) or any(self._uses_gpu(uuid, own) for uuid in self._uuids):
            self._used_at = now
        return now - self._used_at

    def used(self) -> None:
        """Note that somebody uses the run, though it computes nothing: a person types."""
        self._used_at = self._clock()

    def _uses_cpu(self, own: frozenset[int], now: float) -> bool:
        times, before, elapsed = cpu_times(own), self._times, now - self._looked_at
        self._times, self._looked_at = times, now
        used = sum(seconds - before.get(process, 0.0) for process, seconds in times.items())
        return elapsed > 0 and used / elapsed > BUSY_CORES

    def _uses_gpu(self, uuid: str, own: frozenset[int]) -> bool:
        try:
            by_process = self._probe.process_utilisation(uuid) or {}
            if any(psutil.pid_exists(pid) for pid in by_process):
                return any(percent > 0 for pid, percent in by_process.items() if pid in own)
            # The driver tells no processes, or has other numbers for them, as in a container.
            return (self._probe.sample(uuid).utilisation_percent or 0) > 0
        except GpuError:  # whoever computes on it finds that out
            return False


def cpu_times(pids: Iterable[int]) -> Times:
    """Return the CPU seconds of processes, and of their children that have ended, by number and start.

    Args:
        pids: those that are gone, or are hidden, are left out.
    """
    found: dict[tuple[int, str], float] = {}
    for pid in pids:
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[pid, fields[19]] = sum(map(int, fields[11:15])) / _TICKS
    return found


def typed_s_ago(pids: Iterable[int]) -> float:
    """Return how many seconds ago somebody typed into one of these processes; infinite: there is no terminal of theirs.

    The kernel notes when a terminal was read last, to 8 s. Only what its foreground reads was typed for it.
    """
    return time.time() - max(map(_typed_at, pids), default=-math.inf)


def _typed_at(pid: int) -> float:
    """Return when a process's terminal was read last, Unix seconds."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        group, terminal, foreground = int(fields[2]), int(fields[4]), int(fields[5])
        number = (terminal & 0xFF) | ((terminal >> 12) & 0xFFF00)
        is_pseudo = (terminal >> 8) & 0xFFF == _PSEUDO_TERMINALS
        return (_TERMINALS / str(number)).stat().st_atime if is_pseudo and group == foreground else -math.inf
    except OSError:
        return -math.inf


def descendants(pid: int) -> list[int]:
    """Return the numbers of a process, and of all that it and its children have started and that live."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
