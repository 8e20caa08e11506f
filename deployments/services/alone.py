"""Runs the loop of a service of which one at a time works in a home."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tasks.base.file_locks import FOREVER, lock
from tasks.base.workspace import storage_errors


def wait_alone(folder: Path) -> int:
    """Wait until no other service works in a folder; return what holds its lock, to be kept open.

    Raises:
        StorageError: the lock cannot be made.
    """
    path = folder / ".lock"
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock(fd, wait_s=FOREVER)
    return fd


def turn_forever(turn: Callable[[], None], faults: tuple[type[Exception], ...], every_s: float) -> NoReturn:
    """Call `turn` again and again; a fault of these kinds is printed once while it lasts, and the loop goes on."""
    trouble = ""
    while True:
        try:
            turn()
            trouble = ""
        except faults as exc:
            if str(exc) != trouble:
                print(f"goes on, but: {exc}", flush=True)
            trouble = str(exc)
        time.sleep(every_s)
