"""What the programs share that start runs: their signals, their log and password, the wait for Prefect's server."""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import httpx
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.home import make_home
from tasks.base.servers.password import CLIENT, known_password

_START_LIMIT_S = 60


class StopSignals:
    """Counts the requests to stop, and wakes the loop at each and at the end of every child.

    Attributes:
        asked: how often a signal has asked to stop.
        now: a second one came, or SIGUSR1: without waiting for what runs.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.now = False
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_now)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        self.asked += 1
        self.now = self.now or self.asked > 1

    def _on_now(self, signum: int, frame: FrameType | None) -> None:
        self.asked, self.now = max(1, self.asked), True

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or at a signal."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)


def once_answered(ask: Callable[[], None], pause: Callable[[float], object]) -> None:
    """Ask Prefect's server, again while one that is about to start does not answer.

    Args:
        ask: raises httpx.HTTPError where it does not answer.
        pause: waits so many seconds; something true ends it all.

    Raises:
        ConfigError: it has not answered for a minute.
    """
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            return ask()
        except httpx.HTTPError as exc:
            if time.monotonic() > deadline:
                url = os.environ.get("PREFECT_API_URL", "PREFECT_API_URL, which is not set")
                raise ConfigError(f"found no Prefect server within {_START_LIMIT_S} s at {url}: {exc}") from exc
        if pause(1):
            return None


def as_program(work: Callable[[], None], prepare: Callable[[], object] = make_home) -> None:
    """Run a program of the pool: with the log of its own, the password it knows, and errors as a line.

    Args:
        work: what it does.
        prepare: called before the password is looked for.
    """
    # Here, not at the program's start: Prefect reads its settings when it is imported.
    log_to_stdout()
    try:
        # The next tick asks again, and until then the other runs are looked after.
        settings: dict[Any, Any] = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 10}
        prepare()
        if known := known_password(os.environ.get("PREFECT_API_URL", "")):
            settings[PREFECT_API_AUTH_STRING] = os.environ[CLIENT] = known  # its runs inherit it
        with temporary_settings(settings):
            work()
    except TrainyardError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(1)


def log_to_stdout() -> None:
    """Write the log to standard output, without a line for each request."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
