"""Starts the other processes of a training from its first one, and notices when one of them ends."""

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist

from gpu_pools.placement.queues import device_tags
from gpu_pools.process.run_setup import ON, leave_word
from gpu_pools.slots.lease import run_locks
from gpu_pools.stopping import pause
from tasks.base.errors import ConfigError, PutBack, TrainingError
from tasks.base.processes import wait_or_kill
from tasks.base.startup import module_command
from tasks.training.parallel.meeting import MEET_S
from tasks.training.parallel.other_hosts import OtherHosts
from tasks.training.parallel.ranks import Ranks
from tasks.training.parallel.rendezvous import ERROR, HERE, LOOPBACK, PRECISION, THREADS, connect, open_store

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)

_NOTICED_S = 10.0  # after the end of a helper this process has met the closed connection, or never will
_NEWS_S = 3.0  # a connection is closed a moment before its process has ended
_FAR_NEWS_S = 6.0  # the same on another host, of which the one that watches may have died, too
_END_S = 60.0  # the helpers end by themselves after the last epoch
_LOOK_S = 0.5
_PROGRESS_S = 5.0


def start_helper(task: Mapping[str, Any], locks: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Start a process that computes a share of a training; the kernel kills it with this one.

    Args:
        task: what `tasks.training.parallel.helper` reads.
        locks: of the slots that it holds as long as it lives.
    """
    command = module_command(
        "gpu_pools.process.parent_death", "--signal=KILL", *module_command("tasks.training.parallel.helper")
    )
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=locks)
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(task).encode())
    return process


class Helpers:
    """The processes that train together with this one, from their start to their end.

    Those of this host are children of this process, and the kernel kills them with it; those of other hosts are
    watched there (`tasks.training.parallel.member`), and end with it, too. What they hold is its state, so nothing is
    lost. Ended by a signal, as by a kill or for want of memory, one takes this process with it: whoever watches the
    run starts it again, and it goes on from its checkpoint.

    Args:
        task: how a helper opens the training; see `tasks.training.parallel.helper`.
        n_processes: this one included, at least 2.
        device: of this process.
        n_local: how many of them are on this host, and on each other one.

    Attributes:
        leaving: why the training is to save its state and to end before long, as a host has to leave; "": it is not.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """

    def __init__(
        self, task: Mapping[str, Any], n_processes: int, device: torch.device, *, n_local: int | None = None
    ) -> None:
        self._n_local = n_local or n_processes
        if device.type == "cuda" and torch.cuda.device_count() < self._n_local:
            found = torch.cuda.device_count()
            raise ConfigError(f"found {found} GPUs, need {self._n_local} for n_devices {self._n_local}")
        self._task, self._size = task, n_processes
        self._device = torch.device("cuda", 0) if device.type == "cuda" else device
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closing = threading.Event()
        self.leaving = ""
        self._others: OtherHosts | None = None
        self._store: Store

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        where = self._open_store(Path(self._folder.name) / "store")
        for rank in range(1, self._n_local):
            self._start(rank, where)
        if self._others is not None:
            for target in (self._watch_others, self._tell_progress):
                threading.Thread(target=target, args=(self._others,), name="hosts", daemon=True).start()
        return self

    def _open_store(self, path: Path) -> str | Mapping[str, Any]:
        """Open the store of all processes; return where the others find it."""
        if self._size == self._n_local:
            self._store = open_store(path, self._size)
            return str(path)
        self._others = OtherHosts(self._task, self._size, self._n_local, self._device.type)
        self._await(self._others)
        self._store = self._others.store
        return self._others.meeting.store

    def _await(self, others: OtherHosts) -> None:
        """Wait until the other hosts are there.

        Raises:
            PutBack: they do not come.
        """
        if others.arrived():
            return
        missing = " and ".join(others.missing())
        others.close(0)
        others.close(0)
        raise PutBack(f"{missing} did not come within {MEET_S:.0f} s: waits for its hosts again")

    def _start(self, rank: int, where: str | Mapping[str, Any]) -> None:
        task = {**self._task, "rank": rank, "size": self._size, "store": where, "device": self._device.type}
        task |= {"local": rank, "interface": self._interface}
        process = start_helper(task, run_locks())
        self._processes.append(process)
        threading.Thread(target=self._watch, args=(rank, process), name=f"rank-{rank}", daemon=True).start()

    @property
    def _interface(self) -> str:
        return LOOPBACK if self._others is None else self._others.interface

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        code = process.wait()
        if code == 0 or self._closing.is_set() or (code > 0 and self._closing.wait(_NOTICED_S)):
            return
        # Who waits for another process on a GPU waits in the driver, for ever.
        self._end_with(self._end_of(rank, code))

    def _watch_others(self, others: OtherHosts) -> None:
        while not self._closing.wait(_LOOK_S):
            self.leaving = others.leaving()
            ended = others.ended()
            for rank, code in ended.items():
                if code < 0 or not self._closing.wait(_NOTICED_S):
                    self._end_with(self._end_of(rank, code))
            if not ended:
                for text in others.lost():
                    self._end_with(text)

    def _tell_progress(self, others: OtherHosts) -> None:
        while not self._closing.wait(_PROGRESS_S):
            others.tell_progress()

    def _end_with(self, text: str) -> None:
        """End this process as another one has ended."""
        if self._closing.is_set():
            return
        logger.error("%s: this process ends with it, to go on from the checkpoint", text)
        leave_word(text)
        os.kill(os.getpid(), signal.SIGKILL)

    def _end_of(self, rank: int, code: int) -> str:
        key = f"{ERROR}{rank}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"failed: {self._store.get(key).decode() if self._store.check([key]) else f'exit code {code}'}"
        where = self._device_of(rank)
        return f"process {rank + 1} of {self._size}{f' ({where})' if where else ''} {how}"

    def _device_of(self, rank: int) -> str:
        """Return the device of a process as people write it, of several hosts with the host; "" where nobody knows."""
        if self._others is not None:
            return self._others.name_of(rank)
        own = device_tags(os.environ.get(ON, ""))
        return own[rank] if len(own) == self._size else ""

    def join(self, precision: str) -> Ranks:
        """Let the helpers begin, and return once all are there.

        Raises:
            RuntimeError: one of them has failed; the end of the block says which, and why.
            Interrupted: a signal has come.
        """
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // self._n_local))
        self._store.set(THREADS, str(torch.get_num_threads()))
        self._store.set(PRECISION, precision)
        while not self._store.check([f"{HERE}{rank}" for rank in range(1, self._size)]):
            if self._codes():
                raise RuntimeError("a process of the training failed before its first batch")
            pause(0.05)
        return connect(self._store, Ranks(0, self._size, self._device), self._interface)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._ended_badly() if isinstance(exc, RuntimeError) else {}
        for rank, code in ended.items():
            if code < 0:
                self._end_with(self._end_of(rank, code))
        said = "; ".join(self._end_of(rank, code) for rank, code in ended.items())
        self._closing.set()
        for process in self._processes:
            if kind is not None:
                process.kill()
            wait_or_kill(process, _END_S)
        # One on a GPU would wait for those that have been killed; it ends with this process.
        if dist.is_initialized() and (kind is None or self._device.type == "cpu"):
            dist.destroy_process_group()
        if self._others is not None:
            self._others.close(_END_S if kind is None else 0)
        self._folder.cleanup()
        if ended:
            raise TrainingError(said) from exc

    def _codes(self) -> dict[int, int]:
        """Return the exit codes of helpers that have failed, by rank."""
        here = {rank: code for rank, process in enumerate(self._processes, 1) if (code := process.poll())}
        return here | (self._others.ended() if self._others is not None else {})

    def _ended_badly(self) -> dict[int, int]:
        """Return the exit codes of helpers that have failed, by rank, after a moment for the news to arrive."""
        begun = time.monotonic()
        until = begun + (_NEWS_S if self._others is None else _FAR_NEWS_S)
        while time.monotonic() < until and not self._codes():
            if self._others is not None:
                for text in self._others.silent_lately():
                    self._end_with(text)
            time.sleep(0.05)
        return self._codes()
