"""Names the process of a terminal's run on the run; loads no Prefect, as `yard doctor` must not."""

import os
from pathlib import Path

from gpu_pools.names import PROCESS_LABEL, host_name
from tasks.base.processes import identity

_NAMESPACE = Path("/proc/self/ns/pid")


def process_label() -> dict[str, str]:
    """Return the label of a flow run by which its host's worker tells whether this process, which runs it, lives."""
    own = os.getpid()
    return {PROCESS_LABEL: f"{host_name()} {os.readlink(_NAMESPACE)} {own} {identity(own)}"}


def is_gone(label: str) -> bool:
    """Return whether the process that a label names was one of this host, and is not there any more."""
    parts = label.split()
    if len(parts) != 4 or parts[:2] != [host_name(), os.readlink(_NAMESPACE)] or not parts[2].isdecimal():
        return False
    pid = int(parts[2])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it, or one that has its number now, is another user's
        pass
    try:
        return identity(pid) != parts[3] and Path(f"/proc/{pid}").exists()  # else it is hidden from this user
    except PermissionError:
        return False
