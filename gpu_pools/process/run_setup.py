"""Sets up the process of a run (device, locks, folders, threads), and sweeps up after it."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu_pools.kernels import kernel_environment
from gpu_pools.names import OWNER
from gpu_pools.placement.probe import Device, environment
from gpu_pools.process.run_process import MARK
from gpu_pools.slots.lease import Lease
from gpu_pools.slots.ledger import Entry
from tasks.base.file_locks import try_lock
from tasks.base.workspace import home, run_dir, storage_errors, write_atomic

DEVICE = "TRAINYARD_DEVICE"
"""Tells a run what its lease is for: `cuda` or `cpu`; the device asked for in its parameters led it to its queue."""

ON, QUEUE, PRIORITY = "TRAINYARD_ON", "TRAINYARD_QUEUE", "TRAINYARD_PRIORITY"
"""Tell a run its devices as people write them (cuda:1, cuda:0,cuda:2), its queue and priority; MLflow keeps them."""

MEETING = "TRAINYARD_MEETING"
"""Tells the first process of a run on several hosts the number of its meeting, and who is to come: NUMBER boxb,boxc."""

STOP_FILE = "TRAINYARD_STOP_FILE"
"""Names the file whose appearance asks a run to save its state and to end, so that it can go on later."""

DEADLINE = "TRAINYARD_DEADLINE"
"""Unix time at which the worker ends a run that has a time limit: what can end well before, does."""

_LAST_WORD, _MOST_WORDS = "last-word", 600

EXIT_STOPPED = 75
"""A run that was asked to stop has saved its state and ends without a word to the server."""

EXIT_SUPERSEDED = 76
"""The run was no longer in the state its process was started for: it belongs to somebody else, or to nobody."""


def read_meeting() -> tuple[str, tuple[str, ...]]:
    """Return the number of this run's meeting and the hosts that are to come to it; none: it is on this host alone."""
    number, _, names = os.environ.get(MEETING, "").partition(" ")
    return number, tuple(filter(None, names.split(",")))


def stop_file(run_id: str) -> Path:
    """Return the file that asks the run to stop at its next checkpoint."""
    return run_dir(run_id) / "stop"


def lock_run(run_id: str) -> int | None:
    """Return a descriptor that holds the run for whoever inherits it, or None while a process of it lives.

    `yard run` and `yard resume` hold the same file.
    """
    return try_lock(lock_path(run_id))


def lock_path(run_id: str) -> Path:
    """Return the file that every process of a run keeps open."""
    return run_dir(run_id) / "lock"


def run_is_dead(run_id: str) -> bool:
    """Return whether no process of the run is left on this host."""
    fd = lock_run(run_id)
    if fd is None:
        return False
    os.close(fd)
    return True


def process_environment(
    entry: Entry, lease: Lease, devices: Sequence[Device], *, entrypoint: str, extra: Mapping[str, str], threads: int
) -> dict[str, str]:
    """Return the variables of the run's process.

    Args:
        entry: of the run.
        lease: its slots.
        devices: its GPUs; empty: it sees none.
        entrypoint: of the flow, module.function.
        extra: as run and deployment ask for; what makes the run its own cannot be overridden.
        threads: for computing on the CPU, unless set for the worker or by `extra`.
    """
    scratch = run_dir(entry.run_id) / "tmp"
    with storage_errors(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
    own = {
        "PREFECT__FLOW_RUN_ID": entry.run_id,
        "PREFECT__FLOW_ENTRYPOINT": entrypoint,
        MARK: entry.run_id,
        "TRAINYARD_HOME": str(home()),
        OWNER: entry.owner,
        ON: entry.tag,
        QUEUE: entry.queue,
        PRIORITY: str(entry.priority or ""),
        DEVICE: "cuda" if devices else "cpu",
        STOP_FILE: str(stop_file(entry.run_id)),
        "TMPDIR": str(scratch),
        **environment(devices),
        **kernel_environment(next(iter(devices), None), {**os.environ, **extra}),
        **lease.env,
    }
    if entry.limit_s is not None:
        own[DEADLINE] = f"{entry.began + entry.limit_s - entry.spent_s:.0f}"
    return {"OMP_NUM_THREADS": str(threads), **os.environ, **extra, **own}


def clean_up(run_id: str) -> None:
    """Remove what a run leaves behind however it ends: its temporary files and the request to stop."""
    shutil.rmtree(run_dir(run_id) / "tmp", ignore_errors=True)
    stop_file(run_id).unlink(missing_ok=True)


def output_file(run_id: str) -> Path:
    """Return the file with what the processes of the run have printed."""
    return run_dir(run_id) / "output.log"


def leave_word(text: str) -> None:
    """Leave from inside a run why its process is about to end itself; the worker puts it into the run's state."""
    if run_id := os.environ.get(MARK):
        write_atomic(run_dir(run_id) / _LAST_WORD, " ".join(text.split())[:_MOST_WORDS].encode(errors="replace"))


def take_word(run_id: str) -> str:
    """Return what the process of a run has left, once; "" for nothing."""
    path = run_dir(run_id) / _LAST_WORD
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    path.unlink(missing_ok=True)
    return text


def read_attempt(run_id: str) -> tuple[int, float]:
    """Return which attempt comes next, 1 for the first, and how many seconds the earlier ones ran.

    A damaged file counts as none: the run would never be started again else.
    """
    path = run_dir(run_id) / "attempt"
    try:
        number, _, spent = path.read_text().partition(" ")
        return int(number), float(spent or 0)
    except (FileNotFoundError, ValueError):
        return 1, 0.0


def write_attempt(run_id: str, attempt: int, spent_s: float) -> None:
    """Remember which attempt comes next and how long those before ran, for any worker on this home."""
    write_atomic(run_dir(run_id) / "attempt", f"{attempt} {spent_s:.1f}".encode())


def time_spent(run_id: str, began: float) -> float:
    """Return how many seconds an attempt ran, to the last line it printed: nobody may have seen when it died."""
    path = output_file(run_id)
    return max(0.0, path.stat().st_mtime - began) if path.is_file() else 0.0


def forget_attempts(run_id: str) -> None:
    """Let the next attempt be the first one."""
    (run_dir(run_id) / "attempt").unlink(missing_ok=True)


def files_of(run_id: str) -> Path:
    """Return the folder the run works in: its own, or that of the pipeline it is a stage of."""
    link = run_dir(run_id) / "files"
    return link.resolve() if link.is_symlink() else run_dir(run_id)
