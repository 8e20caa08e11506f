"""A program that several commands share, and that ends with the last of them.

Whoever needs it shares the lock `users`. The kernel lets go of it when a process is gone, however, so the keeper, the
process that has the program as its child, needs no count and no list: when it gets the lock for itself, nobody is left,
and it ends the program.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.services.service import START_LIMIT_S, ServiceError, log_file, tail
from tasks.base.file_locks import FOREVER, lock
from tasks.base.home import make_home
from tasks.base.startup import module_command
from tasks.base.workspace import home, storage_errors

_LOOK_EVERY_S = 0.25
_STOP_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Keeper:
    """How one program is shared.

    Args:
        name: of the program, in messages.
        module: run with `python -m`; has the program as its child while it is `sole` and waits for the users.
        folder: of the locks.
        log: name of the log of keeper and program.
        max_starts: attempts within one start, a second apart.
    """

    name: str
    module: str
    folder: Path
    log: str
    max_starts: int

    def alive(self) -> bool:
        """Return whether a keeper lives, and so its program, or soon."""
        fd = self.open_lock("keeper")
        try:
            return not lock(fd, shared=True)
        finally:
            os.close(fd)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a keeper; where there is one already, the new one ends at once."""
        log = log_file(self.log)
        make_home()
        with storage_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                # A session of its own: it outlives the command that started it while others need the program.
                return subprocess.Popen(
                    module_command(self.module),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                    cwd="/",
                    env={**os.environ, "TRAINYARD_HOME": str(home())},
                )

    def share(self) -> int:
        """Return a descriptor that keeps the program up until it is closed; waits while a keeper is just ending it.

        Give it to `release`.
        """
        fd = self.open_lock("users")
        lock(fd, shared=True, wait_s=FOREVER)
        return fd

    def release(self, shared: int) -> None:
        """Need the program no longer; the last one waits until it has ended."""
        last = lock(shared)
        os.close(shared)
        deadline = time.monotonic() + _STOP_LIMIT_S
        while last and self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)

    def ensure(self, ready: Callable[[], bool], begun: "subprocess.Popen[bytes] | None" = None) -> None:
        """Wait until the program works, and start it where nobody has; to be called by who shares it.

        Args:
            ready: whether it works.
            begun: a keeper that the caller has started.

        Raises:
            ServiceError: it does not start; with the end of its log.
        """
        for _ in range(self.max_starts):
            keeper = begun or (None if self.alive() else self.start())
            begun = None
            deadline = time.monotonic() + START_LIMIT_S
            while time.monotonic() < deadline:
                if ready() and self.alive():
                    return
                if keeper is not None and keeper.poll() is not None and not self.alive():
                    break
                time.sleep(0.05)
            time.sleep(1)
        log = log_file(self.log)
        raise ServiceError(f"{self.name} does not start; the end of {log}:\n{tail(log)}")

    @contextmanager
    def sole(self) -> Iterator[bool]:
        """Be the keeper for the block, or not, where another process is: the value says so."""
        fd = self.open_lock("keeper")
        try:
            yield lock(fd, wait_s=1)  # others take it for a moment, to see whether it is held
        finally:
            os.close(fd)

    def wait_for_users(self, process: "subprocess.Popen[bytes]") -> bool:
        """Return True when nobody shares the program any more, False when it has ended before."""
        users = self.open_lock("users")
        while not lock(users):  # held until this process ends: who comes now waits for that
            if process.poll() is not None:
                return False
            time.sleep(_LOOK_EVERY_S)
        return True

    def open_lock(self, name: str) -> int:
        """Return a descriptor of one of the lock files."""
        path = self.folder / f"{name}.lock"
        make_home()  # with its mode, before the folder in it
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
