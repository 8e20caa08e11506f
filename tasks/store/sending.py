"""Sends the folder of a run from its own process: after checkpoints while it works, and whole at its end."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tasks.base.errors import TakenOverError, TrainyardError, TransferError
from tasks.base.workspace import storage_errors
from tasks.store.folder import STATE, SharedFolder, frozen

logger = logging.getLogger(__name__)

_EVERY_S = 30.0
_IDLE_SHARE = 4  # of the time that a sending takes, for which the next one waits: training needs the disk, too


class Sending:
    """Sends a run's folder in a thread of its own.

    Args:
        shared: the folder.
        writer: the run's id.
        on_taken: is called where the run goes on on another host.
        clock: seconds, on any clock that moves steadily.
    """

    def __init__(
        self,
        shared: SharedFolder,
        writer: str,
        on_taken: Callable[[TakenOverError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared, self._writer, self._on_taken, self._clock = shared, writer, on_taken, clock
        self._picture = shared.folder / STATE / "picture"
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._due = clock()
        self._complained = False

    def changed(self, part: Path) -> None:
        """Send a part of the folder as it is at this moment, unless a sending goes on, or ended a moment ago.

        Args:
            part: a folder below that of the run: a training's, whose checkpoint has just been written.
        """
        if not part.is_relative_to(self._shared.folder):
            return
        with self._lock:
            if (self._thread and self._thread.is_alive()) or self._clock() < self._due:
                return
            shutil.rmtree(self._picture, ignore_errors=True)
            with storage_errors(self._picture):
                self._picture.mkdir(parents=True)
                frozen(self._shared.folder, str(part.relative_to(self._shared.folder)), self._picture)
            self._thread = threading.Thread(target=self._send, name="send-files", daemon=True)
            self._thread.start()

    def claim(self) -> None:
        """Say that the run works here from now on: nothing is sent any more by a process of it elsewhere.

        Raises:
            TransferError: MLflow does not answer, or refuses.
            StorageError: a file cannot be read.
        """
        self._shared.send(self._writer, claim=True)

    def check(self) -> None:
        """Look whether the run is still this process's; where it is not, `on_taken` is called.

        Raises:
            TransferError: MLflow does not answer, or refuses.
        """
        try:
            self._shared.check(self._writer)
        except TakenOverError as exc:
            self._on_taken(exc)

    def finish(self) -> None:
        """Send the whole folder as it is now, after what is under way.

        Raises:
            TransferError: MLflow does not answer, or refuses.
            StorageError: a file cannot be read.
        """
        if self._thread is not None:
            self._thread.join()
        self._shared.send(self._writer)

    def _send(self) -> None:
        began = self._clock()
        try:
            self._shared.send(self._writer, self._picture)
            if self._complained:
                logger.info("files are sent to MLflow again")
            self._complained = False
        except TakenOverError as exc:
            self._on_taken(exc)
        except TrainyardError as exc:  # the next checkpoint is another try
            if not self._complained or not isinstance(exc, TransferError):
                logger.warning("a checkpoint is not sent, the run goes on: %s", exc)
            self._complained = True
        finally:
            shutil.rmtree(self._picture, ignore_errors=True)
            now = self._clock()
            self._due = now + max(_EVERY_S, _IDLE_SHARE * (now - began))


_active: list[Sending] = []


def begin(sending: Sending) -> None:
    """Let this process's checkpoints be sent from now on."""
    _active[:] = [sending]


def check_active() -> None:
    """Look whether the run of this process, if it sends its files, is still this process's; see `Sending.check`.

    Raises:
        TransferError: MLflow does not answer, or refuses.
    """
    for sending in _active:
        sending.check()


def written(folder: Path) -> None:
    """Say that a folder holds a checkpoint that was just written; other hosts are given it where they need it."""
    for sending in _active:
        sending.changed(folder)
