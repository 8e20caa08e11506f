"""Watches for other programs on a run's GPUs, and notes them in its log and in MLflow."""

import contextvars
import logging
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from gpu_pools.placement import intruders
from gpu_pools.placement.probe import GpuProcess, Probe
from tasks.base.errors import GpuError, StorageError
from tasks.tracking.tracker import Tracker

TAG = "foreign_process"
NUMBER, MEMORY = "foreign/processes", "foreign/memory_mib"

_AGAIN_S = 1.0  # epochs may be shorter, and a look asks the driver
_ENTRY = re.compile(r"(?P<who>pid \d+ \(.*?\)), (?P<mib>\d+) MiB(?:; |$)")


class ForeignWatch:
    """Looks at once, at the end of every epoch and every so many seconds, while the `with` block runs.

    Each process is told of once. The metrics of an epoch are the most that was seen since the one before, 0 where
    nothing was; they are left out where the driver's process numbers are not this system's, as in a container.
    It ends before the tracker does, as `SystemSampler`.
    """

    def __init__(
        self,
        tracker: Tracker,
        log: logging.Logger | logging.LoggerAdapter[Any],
        probe: Probe,
        gpu_uuids: Sequence[str],
        *,
        every_s: float = 30.0,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            tracker: gets metrics and tag; its `step_ended` says when an epoch ends.
            log: gets the warnings.
            probe: reads the GPUs.
            gpu_uuids: the run's own GPUs.
            every_s: seconds between two looks within an epoch.
        """
        self._tracker, self._log, self._probe, self._uuids, self._every_s = tracker, log, probe, gpu_uuids, every_s
        self._ended: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # steps; None: the block
        self._told = {found["who"]: int(found["mib"]) for found in _ENTRY.finditer(tracker.logged_tag(TAG))}
        self._last: dict[str, float] = {}  # what the last look gave
        self._most: dict[str, float] = {}  # since the last epoch
        self._looked_at = float("-inf")
        self._failed = False
        context = contextvars.copy_context()  # Prefect's log asks it for the run
        self._thread = threading.Thread(target=lambda: context.run(self._run), name="foreign-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._tracker.on_step_end = self._ended.put
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; a run without epochs has its metrics at step 0."""
        self._tracker.on_step_end = None
        if exc is None and not self._tracker.logged_steps(NUMBER):
            self._ended.put(0)
        self._ended.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._look()
        while True:
            try:
                step = self._ended.get(timeout=self._every_s)
            except queue.Empty:
                self._look()
                continue
            if step is None:
                return
            if time.monotonic() - self._looked_at >= _AGAIN_S:
                self._look()
            self._tracker.metrics(self._most, step)
            self._most = dict(self._last)

    def _look(self) -> None:
        self._looked_at, self._last = time.monotonic(), {}
        try:
            found = [intruders.beside_me(self._probe, uuid) for uuid in self._uuids]
        except (GpuError, StorageError) as exc:
            if not self._failed:
                self._log.warning("who else computes on the GPU is not known for now: %s", exc)
            self._failed = True
            return
        self._failed = False
        seen = [process for one in found for process in one.seen]
        if all(one.certain for one in found):
            n_processes = len({process.pid for process in seen})  # one may compute on several GPUs
            self._last = {NUMBER: n_processes, MEMORY: sum(process.memory_mib or 0 for process in seen)}
        self._most = {key: max(value, self._most.get(key, 0)) for key, value in self._last.items()} or self._most
        used = Counter[str]()
        for process in seen:
            used[_who(process)] += process.memory_mib or 0
        self._tell(used)

    def _tell(self, seen: Mapping[str, int]) -> None:
        for who in seen.keys() - self._told.keys():
            self._log.warning(
                "%s computes on this run's GPU and is no run, %d MiB: the run's pace and the memory left are not its "
                "own until that ends",
                *(who, seen[who]),
            )
        grown = {who: mib for who, mib in seen.items() if mib > self._told.get(who, -1)}
        if grown:
            self._told |= grown
            self._tracker.tag(TAG, "; ".join(f"{who}, {mib} MiB" for who, mib in self._told.items()))


def _who(process: GpuProcess) -> str:
    return f"pid {process.pid} ({process.user}, {intruders.command(process)})"
