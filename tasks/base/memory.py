"""Estimates how much memory a training takes, and measures how much there is."""

import ctypes
import resource
from pathlib import Path

import psutil
import torch

_CGROUPS = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # Source: glibc, malloc.h
_KEPT_BYTES, _ORDINARY_BYTES = 256 << 20, 32 << 20  # the second is the most that glibc takes


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB that it frees, for work in batches, which soon needs the same again.

    glibc otherwise hands it back at once, and the kernel clears each page anew. Other C libraries have no such setting.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _ORDINARY_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def memory_in_use(device: torch.device) -> int:
    """Return the most bytes in use so far: of the GPU by this process, without one of the process's own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def free_memory() -> int:
    """Return the bytes of memory that this process may still take: of the machine, or of its container or unit."""
    own = Path("/proc/self/cgroup")
    line = next((line for line in own.read_text().splitlines() if line.startswith("0::")), "") if own.is_file() else ""
    folder = _CGROUPS / line.removeprefix("0::").strip("/")
    free = psutil.virtual_memory().available
    for group in (folder, *folder.parents):  # a limit may stand on any of the groups around
        if group.is_relative_to(_CGROUPS):
            free = min(free, _left(group, free))
    return int(max(0, free))


def _left(group: Path, unlimited: int) -> int:
    """Return the bytes that a control group has left; files that the kernel can drop count as free."""
    limit = group / "memory.max"
    if not limit.is_file() or (text := limit.read_text().strip()) == "max":
        return unlimited
    used = int((group / "memory.current").read_text())
    kept = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
    return int(text) - used + int(kept["inactive_file"]) + int(kept["active_file"])
