"""Lets one of those who follow a home ask the server, and hands its fresh answer to the others."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from deployments.api import api_url
from deployments.runs.find import RunRow
from deployments.watching.picture import EVERY_S, ServerView
from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import lock
from tasks.base.outside import read_json
from tasks.base.workspace import home, write_json

FRESH_S = 0.9 * EVERY_S
"""An older answer is handed to nobody; what is shown is for people to look at, never for a decision."""

_WAIT_S = 2.0  # for the answer of who is asking just now


class SharedAnswers:
    """What the server says to whoever follows in this home.

    Args:
        ask: asks it.
        clock: Unix seconds.
    """

    def __init__(self, ask: Callable[[], ServerView], clock: Callable[[], float] = time.time) -> None:
        self._ask, self._clock = ask, clock

    def __call__(self) -> ServerView:
        """Return what it has said to another one a moment ago, else what it says now."""
        folder = home()
        if not folder.is_dir():  # of somebody who only looks at a server elsewhere
            return self._ask()
        path = folder / "following.json"
        if seen := self._read(path):
            return seen
        try:
            fd = os.open(folder / "following.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:  # a full disk is no reason to show nothing
            return self._ask()
        try:
            lock(fd, wait_s=_WAIT_S)
            return self._read(path) or self._told(path)
        finally:
            os.close(fd)

    def _told(self, path: Path) -> ServerView:
        view = self._ask()
        if not view.fault:
            with suppress(StorageError):  # as above
                write_json(path, {**asdict(view), "server": _server()})
        return view

    def _read(self, path: Path) -> ServerView | None:
        """Return a fresh answer, if there is one of this version."""
        try:
            found = read_json(path, StorageError)
            view = ServerView([RunRow(**row) for row in found["rows"]], found["limits"], at=found["at"])
            return view if found["server"] == _server() and 0 <= self._clock() - view.at < FRESH_S else None
        except (FileNotFoundError, StorageError, TypeError, KeyError):
            return None


def _server() -> str:
    """Return who is asked: one who follows the server of another home must not see what this home's says."""
    try:
        return api_url()
    except ConfigError:  # who asks says so
        return ""
