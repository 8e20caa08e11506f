"""Keeps a process ready that has done its imports and waits for a run."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu_pools.process.run_main import HEADER
from tasks.base.startup import module_command
from tasks.base.workspace import home, storage_errors

_SETTINGS = {
    # A run whose server is away for some minutes goes on when it is back, instead of failing at its next call.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
}
_DELAY_S = 1.0  # the run that has just been started comes first


class WarmProcess:
    """Keeps one process ready; the worker calls `refill` at every turn."""

    def __init__(self) -> None:
        self._waiting: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._taken_at = float("-inf")

    def refill(self) -> None:
        """Start a process where there is none, some time after the last one was given away."""
        if self._waiting is not None and self._waiting[0].poll() is not None:
            self._waiting[1].close()
            self._waiting = None
        if self._waiting is None and time.monotonic() - self._taken_at > _DELAY_S:
            self._waiting = _start(None)

    def give(
        self, run_id: str, claim: str, *, env: Mapping[str, str], folder: Path, output: Path, fds: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Hand a run to a process, and return that.

        Args:
            run_id, claim: of the run, and of the state in which it was claimed.
            env: the whole environment of the run.
            folder: it starts in.
            output: file that what it prints is added to.
            fds: the kernel locks it holds from now on.

        Raises:
            StorageError: the output cannot be written.
        """
        with storage_errors(output):
            output.touch()
        job = {"run_id": run_id, "claim": claim, "env": dict(env), "folder": str(folder), "output": str(output)}
        data = json.dumps(job).encode()
        # Prefect has read its settings in the process that waits; a run with settings of its own needs a new one.
        special = {k: v for k, v in env.items() if k.startswith("PREFECT_") and not k.startswith("PREFECT__")}
        ours = {**_SETTINGS, **os.environ}
        usual = all(ours.get(name) == value for name, value in special.items())
        process, channel = (self._waiting if usual else None) or _start(None if usual else special)
        if self._waiting is not None and process is self._waiting[0]:
            self._waiting = None
        self._taken_at = time.monotonic()
        with channel:
            try:
                socket.send_fds(channel, [len(data).to_bytes(HEADER, "big")], list(fds))
                channel.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                process.wait()  # it died while it waited; the worker notices its end
        return process

    def close(self) -> None:
        """End the process that waits."""
        if self._waiting is not None:
            process, channel = self._waiting
            channel.close()  # it ends when its input ends
            process.wait()
            self._waiting = None


def _start(settings: Mapping[str, str] | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    log = home() / "logs" / "ready.log"
    with storage_errors(log), theirs:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                module_command("gpu_pools.process.run_main", str(theirs.fileno())),
                env={**_SETTINGS, **os.environ, **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
    return process, ours
