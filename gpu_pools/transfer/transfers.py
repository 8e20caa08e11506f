"""Lets the worker bring what a run needs before it takes a slot, by a process beside it."""

import json
import logging
import os
import queue
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from gpu_pools.prefect_client import Run
from tasks.base.startup import module_command
from tasks.base.workspace import home, storage_errors
from tasks.store.places import Needs, needs
from tasks.store.setting import hosts_share_a_disk

logger = logging.getLogger("trainyard.worker")

COMMAND = tuple(module_command("tasks.store.service"))
_FRESH_S = 60.0  # what was brought so long ago is looked at once more: another host may have sent something since
_AGAIN_S = 10.0
_STALE_S = 600.0
_MIB = 2**20


@dataclass(slots=True)
class _Asked:
    """What is known of one request."""

    at: float  # asked, or answered, Unix seconds
    text: str
    over: bool = False
    fault: bool = False


class Transfers:
    """Asks for files, and knows what is still on its way; on hosts that share a disk these are data sets alone.

    Args:
        place: host and home, as runs are marked with.
        clock: Unix seconds.
    """

    def __init__(self, place: str, clock: Callable[[], float]) -> None:
        self._place, self._clock = place, clock
        self._active = not hosts_share_a_disk()
        self._asked: dict[str, _Asked] = {}
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def missing(self, run: Run) -> str | None:
        """Return why a run cannot start here yet, None where all that it needs is here; what is missing is brought."""
        wanted = run_needs(run, self._place)
        if not self._active:
            wanted = Needs(data=wanted.data)
        if not wanted:
            return None
        self._read()
        known = self._asked.get(run.id)
        if known is not None and known.over and self._clock() - known.at > (_AGAIN_S if known.fault else _FRESH_S):
            known = None
        if known is None:
            known = self._asked[run.id] = _Asked(self._clock(), "its files are brought here")
            lists = {"runs": wanted.runs, "data": wanted.data, "digests": wanted.digests}
            self._ask(key=run.id, **{name: sorted(items) for name, items in lists.items()})
        return known.text if not known.over or known.fault else None

    def send(self, run_id: str, folder: str) -> None:
        """Send what a run whose process is gone has left; it may go on on another host.

        Args:
            run_id: of the run.
            folder: the id of the run whose folder it works in.
        """
        if self._active:
            self._asked[f"send {run_id}"] = _Asked(self._clock(), "")
            self._ask(key=f"send {run_id}", send=folder, writer=run_id)

    def look(self) -> None:
        """Read what came, and forget what is long over."""
        self._read()
        now = self._clock()
        self._asked = {key: asked for key, asked in self._asked.items() if not asked.over or now - asked.at < _STALE_S}

    def close(self) -> None:
        """End the process beside the worker; what it has brought stays."""
        if self._process is not None:
            self._process.terminate()
            self._reap(self._process)

    def _ask(self, **asked: Any) -> None:
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has just died
            self._reap(self._process)

    def _started(self) -> subprocess.Popen[str]:
        log = home() / "logs" / "transfers.log"
        with storage_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as errors:
                process = subprocess.Popen(
                    COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=dict(os.environ),
                )
        assert process.stdout is not None
        threading.Thread(target=_pass_on, args=(process.stdout, self._answers), daemon=True).start()
        return process

    def _reap(self, process: subprocess.Popen[str]) -> None:
        """Forget a process that is gone, with what it was asked for: all of that is asked for again."""
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request that it has not read
                pipe.close()
        self._process = None
        self._asked = {key: asked for key, asked in self._asked.items() if asked.over}

    def _read(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._reap(self._process)
        while not self._answers.empty():
            said = self._answers.get()
            known = self._asked.get(said["key"])
            if known is None:
                continue
            if far := said.get("far"):
                what, done, total = far
                known.text = f"its {what} are on the way here: {done // _MIB} of {total // _MIB} MiB"
                continue
            known.at, known.over = self._clock(), True
            if fault := said.get("fault"):
                # One that no other try can mend is the run's own to say.
                known.fault, known.text = not said["final"], f"what it needs cannot be brought here: {fault}"
                logger.warning("%s: %s", said["key"], fault)


def run_needs(run: Run, place: str) -> Needs:
    """Return what a run needs on this host.

    Args:
        run: of the pool.
        place: host and home, as runs are marked with.
    """
    parameters = {**run.defaults, **run.parameters}
    begun = run.infrastructure and not run.infrastructure.startswith(f"{place}:")
    return needs(parameters, run.id if begun else None)


def _pass_on(lines: IO[str], answers: "queue.SimpleQueue[dict[str, Any]]") -> None:
    with suppress(ValueError):  # closed, as the process is gone
        for line in lines:
            answers.put(json.loads(line))
