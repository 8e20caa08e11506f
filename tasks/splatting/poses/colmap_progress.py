"""Reads the progress of COLMAP from its process's JSON lines and from its log."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.base.errors import TrainyardError
from tasks.splatting.poses.colmap_job import LOG, ColmapJob

_POLL_S = 0.5


class Reporter:
    """Prints lines to whoever started this process."""

    def __init__(self) -> None:
        # Whatever the C++ side prints must not fall among the lines.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is."""
        self._say({"work": stage, "done": min(done, total), "total": total})

    def note(self, text: str) -> None:
        """Say what a person should read."""
        self._say({"note": text})

    def refused(self, why: TrainyardError) -> None:
        """Say that the job cannot be done."""
        self._say({"refused": str(why), "error": type(why).__name__})

    def _say(self, what: dict[str, str | int]) -> None:
        print(json.dumps(what), file=self._out, flush=True)


@contextmanager
def watched(count: Callable[[], int], stage: str, total: int, reporter: Reporter) -> Iterator[None]:
    """Say how far a stage is while it runs: COLMAP itself only logs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            reporter.progress(stage, count(), total)

    reporter.progress(stage, 0, total)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    reporter.progress(stage, total, total)


def lines(job: ColmapJob, pattern: str) -> Callable[[], int]:
    """Return what counts the lines COLMAP will log from now on that hold `pattern`.

    Its database would tell as well, but is left alone: COLMAP was seen to abort with a reader beside it.
    """
    log = Path(job.folder) / LOG
    begin = log.stat().st_size

    def count() -> int:
        with log.open("rb") as file:
            file.seek(begin)
            return file.read().count(pattern.encode())

    return count
