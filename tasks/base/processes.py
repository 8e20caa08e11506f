"""Processes of this host: told apart by number and the time they began, found by a variable that they inherit."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def identity(pid: int) -> str | None:
    """Return what tells a living process from all others that had or will have its number; None if there is none.

    It is the boot and the ticks since then: a clock that is set right in between changes neither. A zombie is none.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def others() -> Iterator[int]:
    """Yield the numbers of all processes but this one."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield int(entry.name)


def has_variable(pid: int, name: str, value: str) -> bool:
    """Return whether a process was started with a variable of its environment; no for one of another user."""
    try:
        return f"{name}={value}".encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # of another user, or gone


def has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open; no for one of another user.

    Args:
        path: resolved.
    """
    return path in open_files(pid)


def open_files(pid: int) -> set[Path]:
    """Return the files that a process has open; none of one of another user."""
    found = set()
    try:
        for fd in (_PROC / str(pid) / "fd").iterdir():
            with suppress(FileNotFoundError):  # just closed
                found.add(fd.readlink())
    except OSError:
        pass  # of another user, or gone
    return found


def is_written(path: Path) -> bool:
    """Return whether a process has a file, or one in a folder, open to write; those of other users are not seen.

    Args:
        path: resolved.
    """
    return any(_writes(pid, str(path)) for pid in (*others(), os.getpid()))


def _writes(pid: int, path: str) -> bool:
    folder = _PROC / str(pid)
    try:
        for fd in (folder / "fd").iterdir():
            target = os.readlink(fd)
            if target == path or target.startswith(f"{path}/"):
                lines = (folder / "fdinfo" / fd.name).read_text().splitlines()
                flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
                if flags & os.O_ACCMODE != os.O_RDONLY:
                    return True
    except OSError:
        pass  # of another user, or gone, or just closed
    return False


def end_child(process: "subprocess.Popen[Any]", grace_s: float) -> None:
    """End a child in order, or kill it where it has not ended so many seconds later; one that is gone stays so."""
    process.terminate()
    wait_or_kill(process, grace_s)


def wait_or_kill(process: "subprocess.Popen[Any]", grace_s: float) -> None:
    """Wait for the end of a child, or kill it where it has not ended so many seconds later."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
