"""Tells whether the process that keeps a home's services up is alive, by its number and start time."""

import json
from pathlib import Path

from tasks.base.workspace import home


def pid_file() -> Path:
    """Return the file that names the supervisor of this home."""
    return home() / "yard.pid"


def identity(pid: int) -> str | None:
    """Return what tells a living process from all others that had or will have its number; None if there is none.

    It is the boot and the ticks since then: a clock that is set right in between changes neither.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def supervisor() -> int | None:
    """Return the process that keeps the stack of this home up, None where there is none."""
    found = read_pid()
    return found[0] if found and identity(found[0]) == found[1] else None


def read_pid() -> tuple[int, str] | None:
    """Return the number and the identity in the file; None where it is missing or damaged."""
    try:
        content = json.loads(pid_file().read_text())
        return int(content["pid"]), str(content["created"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # a damaged file names nobody
