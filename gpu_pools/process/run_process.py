"""Starts the process of a run, and ends it with all that it started."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tasks.base.workspace import storage_errors

MARK = "TRAINYARD_RUN_ID"
"""Environment variable that every process of a run inherits; a daemonised one is found by it."""


def start(
    argv: Sequence[str], env: Mapping[str, str], folder: Path, output: Path, fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a process that lives on when this one dies.

    Args:
        argv: the command.
        env: its whole environment.
        folder: it starts in.
        output: file that what it prints is added to. A pipe would end with the reader, and the process with the pipe.
        fds: it inherits: the kernel locks of the run.

    Raises:
        StorageError: the output cannot be written.
    """
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as log:
            return subprocess.Popen(
                argv,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                start_new_session=True,
            )


def create_time(pid: int) -> float | None:
    """Return when a living process was started, Unix seconds; None where there is none, or only its zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def alive(pid: int, created: float | None) -> bool:
    """Return whether the process that got `pid` at `created` lives; another one with the same number does not count."""
    now = create_time(pid)
    return now is not None and (created is None or abs(now - created) < 0.1)


def members(run_id: str, pid: int | None, created: float | None, lock: Path) -> list[psutil.Process]:
    """Return the living processes of a run: its own, all that descend from it, and those that left its tree.

    A child that was forked has the run's lock open, one that was started with a command of its own has the mark in
    its environment.

    Args:
        run_id: of the run.
        pid, created: its own process, as far as known.
        lock: the run's lock file.
    """
    found: dict[int, psutil.Process] = {}
    if pid is not None and alive(pid, created):
        try:
            own = psutil.Process(pid)
            found = {process.pid: process for process in [own, *own.children(recursive=True)]}
        except psutil.NoSuchProcess:
            found = {}
    wanted = f"{MARK}={run_id}".encode()
    target = str(lock.resolve())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in found or int(entry.name) == os.getpid():
            continue
        if wanted in _environ(entry).split(b"\0") or target in _open_files(entry):
            try:
                found[int(entry.name)] = psutil.Process(int(entry.name))
            except psutil.NoSuchProcess:
                continue  # ended in between
    return [process for process in found.values() if create_time(process.pid) is not None]  # no zombies


def _open_files(entry: Path) -> set[str]:
    found = set()
    try:
        for fd in (entry / "fd").iterdir():
            found.add(os.readlink(fd))
    except OSError:
        return found  # of another user, or gone
    return found


def _environ(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""  # of another user, or gone


def command_line(process: psutil.Process) -> list[str]:
    """Return the command of a process, empty when it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def interrupt(pid: int) -> None:
    """Ask the run's own process to stop: Prefect raises in its main thread, and its `finally` blocks run."""
    try:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # a stopped process would take the signal only when it goes on
    except ProcessLookupError:
        return


def kill(run_id: str, pid: int | None, created: float | None, lock: Path) -> int:
    """Kill every process of a run; return how many there were."""
    processes = members(run_id, pid, created, lock)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return len(processes)
