"""Starts the process of a run, and ends it with all that it started."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tasks.base.processes import has_open, has_variable, identity, others
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


def members(run_id: str, pid: int | None, known: str | None, lock: Path) -> list[psutil.Process]:
    """Return the living processes of a run: its own, all that descend from it, and those that left its tree.

    A child that was forked has the run's lock open, one that was started with a command of its own has the mark in
    its environment.

    Args:
        run_id: of the run.
        pid, known: number and identity of its own process, as far as they are known.
        lock: the run's lock file.
    """
    found: dict[int, psutil.Process] = {}
    if pid is not None and alive(pid, known):
        try:
            own = psutil.Process(pid)
            found = {process.pid: process for process in [own, *own.children(recursive=True)]}
        except psutil.NoSuchProcess:
            found = {}
    target = lock.resolve()
    for other in others():
        if other not in found and (has_variable(other, MARK, run_id) or has_open(other, target)):
            try:
                found[other] = psutil.Process(other)
            except psutil.NoSuchProcess:
                continue  # ended in between
    return [process for process in found.values() if identity(process.pid) is not None]  # no zombies


def alive(pid: int, known: str | None) -> bool:
    """Return whether the process of this number and identity lives; another one with the same number does not count."""
    return known is not None and identity(pid) == known


def command_line(process: psutil.Process) -> list[str]:
    """Return the command of a process, empty when it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def interrupt(pid: int) -> None:
    """Ask the run's own process to stop: `gpu_pools.stopping` takes the signal there, and its loops look at it."""
    try:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # a stopped process would take the signal only when it goes on
    except ProcessLookupError:
        return


def kill(run_id: str, pid: int | None, known: str | None, lock: Path) -> int:
    """Kill every process of a run; return how many there were."""
    processes = members(run_id, pid, known, lock)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return len(processes)
