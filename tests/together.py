"""Several processes that compute together: those of a test, and those that a training starts."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing

from gpu_pools.process.run_process import command_line
from tasks.training.parallel.ranks import Ranks
from tasks.training.parallel.rendezvous import connect, open_store
from tests.runners import ROOT
from tests.samples import run_until

CPU = torch.device("cpu")
# To import these takes each new process seconds. Forks of this process are no way: autograd has threads in it.
_IMPORTED = ["pytest", "tasks.recognition.detector.training.session", "tasks.splatting.fit.session", "tests.samples"]


def compute_together(size: int, function: Callable[..., None], *args: Any) -> None:
    """Call function(ranks, *args) in so many processes, connected and of one thread each; raise what one raises."""
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        given = (size, Path(folder) / "store", function, args)
        torch.multiprocessing.start_processes(_take_part, given, nprocs=size, start_method="forkserver")


def _take_part(rank: int, size: int, store: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    function(connect(open_store(store, size), Ranks(rank, size, CPU)), *args)
    dist.destroy_process_group()


def helpers(of: int | None = None) -> list[psutil.Process]:
    """Return the processes that compute a share of a training for a process, or for this one."""
    children = psutil.Process(of).children(recursive=True)
    return [each for each in children if "tasks.training.parallel.helper" in command_line(each)]


def handed_on(
    make: Callable[[int], Any], turns: Sequence[tuple[int, Callable[[list[Any]], bool]]], last: int
) -> tuple[Any, list[list[Any]]]:
    """Return the last session of a training that several numbers of processes had a turn at, and the events of each.

    Args:
        make: a session of so many processes.
        turns: how many begin, and go on, and what stops them.
        last: how many train to the end.
    """
    seen = []
    for n_processes, stops in turns:
        seen.append(run_until(make(n_processes), stops))
        assert not helpers()
    session = make(last)
    seen.append(list(session.run()))
    assert not helpers()
    return session, seen


def end_of_both(script: str, *words: object, reached: int, who: Literal["first", "helper"] = "helper") -> None:
    """Kill one of the two processes of a training, and see that the other one ends with it.

    Args:
        script: trains, and prints how far it is.
        words: its arguments.
        reached: how far it is to be.
        who: is killed.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # the script and the helper import what tests have
    command = [sys.executable, "-c", script, *map(str, words)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        while int(process.stdout.readline()) < reached:
            pass
        (helper,) = helpers(process.pid)
        helper.kill() if who == "helper" else process.kill()
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    psutil.wait_procs([helper], timeout=30)
    assert not helper.is_running()
