"""Starts the processes of a trial, reads their lines of JSON, and ends them with it."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from gpu_pools.stopping import look
from tasks.base.errors import TrainyardError
from tasks.base.startup import module_command

_LOOK_EVERY_S = 0.2


class TrialError(TrainyardError):
    """A process of a trial did not do what it was started for."""


class Speaker:
    """A module of this project in a process of its own that answers in JSON, a line each; it ends when its stdin does.

    Args:
        module: is run with `python -m`.
        words: its arguments.
        log: file that gets all it says that is no JSON.
    """

    def __init__(self, module: str, *words: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                module_command(module, *words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**_settings(), **os.environ},
                start_new_session=True,  # Ctrl-C is for the trial, which ends this
            )
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def tell(self, words: Sequence[str]) -> None:
        """Write a line to its stdin.

        Raises:
            TrialError: it has ended.
        """
        assert self._process.stdin is not None, "it was opened"
        try:
            self._process.stdin.write(json.dumps(list(words)).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise TrialError(self.ended()) from exc

    def hear(self, limit_s: float) -> dict[str, Any]:
        """Return the next object it says.

        Raises:
            TrialError: it said none in time, or ended.
            Interrupted: a signal has come.
        """
        deadline = time.monotonic() + limit_s
        while True:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                return dict(json.loads(line))
            look()
            if time.monotonic() > deadline:
                raise TrialError(f"said nothing in {limit_s:.0f} s")
            self._read()

    def _read(self) -> None:
        assert self._process.stdout is not None, "it was opened"
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_LOOK_EVERY_S):
                return
        more = os.read(self._process.stdout.fileno(), 2**16)
        if not more:
            raise TrialError(self.ended())
        self._rest += more

    def wait(self) -> int:
        """Wait until it has ended; return its exit code, of a signal the negative number."""
        return self._process.wait()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ended(self) -> str:
        """Return how it ended, with the last line it said."""
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended {how}: {lines[-1][:300] if lines else 'it said nothing'}"


def _settings() -> dict[str, str]:
    """Return variables of every process of a trial, so that each computes as the others do."""
    return {
        # As for runs on a CPU: two runs that use all cores each are very slow, see docs/performance.md.
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # set by trainings in deterministic mode
    }
