"""Starts the other processes of a training from its first one, and notices when one of them ends."""

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from gpu_pools.slots.lease import run_locks
from gpu_pools.stopping import pause
from tasks.base.errors import ConfigError, TrainingError
from tasks.base.startup import module_command
from tasks.training.parallel.ranks import Ranks
from tasks.training.parallel.rendezvous import ERROR, HERE, PRECISION, THREADS, connect, open_store

logger = logging.getLogger(__name__)

_NOTICED_S = 10.0  # after the end of a helper this process has met the closed connection, or never will
_NEWS_S = 3.0  # a connection is closed a moment before its process has ended
_END_S = 60.0  # the helpers end by themselves after the last epoch


class Helpers:
    """The processes that train together with this one, from their start to their end.

    They are children of this process, and the kernel kills them with it; what they hold is its state, so nothing is
    lost. Ended by a signal, as by a kill or for want of memory, one takes this process with it: whoever watches the
    run starts it again, and it goes on from its checkpoint.

    Args:
        task: how a helper opens the training; see `tasks.training.parallel.helper`.
        n_processes: this one included, at least 2.
        device: of this process.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """

    def __init__(self, task: Mapping[str, Any], n_processes: int, device: torch.device) -> None:
        if device.type == "cuda" and torch.cuda.device_count() < n_processes:
            raise ConfigError(f"found {torch.cuda.device_count()} GPUs, need {n_processes} for n_devices {n_processes}")
        self._task, self._size = task, n_processes
        self._device = torch.device("cuda", 0) if device.type == "cuda" else device
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._path = Path(self._folder.name) / "store"
        self._store = open_store(self._path, self._size)
        for rank in range(1, self._size):
            self._start(rank)
        return self

    def _start(self, rank: int) -> None:
        command = module_command(
            "gpu_pools.process.parent_death", "--signal=KILL", *module_command("tasks.training.parallel.helper")
        )
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=run_locks())
        task = {**self._task, "rank": rank, "size": self._size, "store": str(self._path), "device": self._device.type}
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(json.dumps(task).encode())
        self._processes.append(process)
        threading.Thread(target=self._watch, args=(rank, process), name=f"rank-{rank}", daemon=True).start()

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        code = process.wait()
        if code == 0 or self._closing.is_set() or (code > 0 and self._closing.wait(_NOTICED_S)):
            return
        # Who waits for another process on a GPU waits in the driver, for ever.
        self._end_with(rank, code)

    def _end_with(self, rank: int, code: int) -> None:
        """End this process as a helper has ended."""
        logger.error("%s: this process ends with it, to go on from the checkpoint", self._end_of(rank, code))
        os.kill(os.getpid(), signal.SIGKILL)

    def _end_of(self, rank: int, code: int) -> str:
        key = f"{ERROR}{rank}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"failed: {self._store.get(key).decode() if self._store.check([key]) else f'exit code {code}'}"
        return f"process {rank + 1} of {self._size} {how}"

    def join(self, precision: str) -> Ranks:
        """Let the helpers begin, and return once all are there.

        Raises:
            RuntimeError: one of them has failed; the end of the block says which, and why.
            Interrupted: a signal has come.
        """
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // self._size))
        self._store.set(THREADS, str(torch.get_num_threads()))
        self._store.set(PRECISION, precision)
        while not self._store.check([f"{HERE}{rank}" for rank in range(1, self._size)]):
            if any(process.poll() for process in self._processes):
                raise RuntimeError("a process of the training failed before its first batch")
            pause(0.05)
        return connect(self._store, Ranks(0, self._size, self._device))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._ended_badly() if isinstance(exc, RuntimeError) else {}
        for rank, code in ended.items():
            if code < 0:
                self._end_with(rank, code)
        self._closing.set()
        for process in self._processes:
            if kind is not None:
                process.kill()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # One on a GPU would wait for those that have been killed; it ends with this process.
        if dist.is_initialized() and (kind is None or self._device.type == "cpu"):
            dist.destroy_process_group()
        said = "; ".join(self._end_of(rank, code) for rank, code in ended.items())
        self._folder.cleanup()
        if ended:
            raise TrainingError(said) from exc

    def _ended_badly(self) -> dict[int, int]:
        """Return the exit codes of helpers that have failed, by rank, after a moment for the news to arrive."""
        until = time.monotonic() + _NEWS_S
        while time.monotonic() < until and not any(process.poll() for process in self._processes):
            time.sleep(0.05)
        return {rank: code for rank, process in enumerate(self._processes, 1) if (code := process.poll())}
