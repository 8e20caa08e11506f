"""Runs the home's PostgreSQL for as long as anybody needs it: `python -m deployments.keeper`.

Whoever needs it shares the lock `users`. The kernel lets go of it when a process is gone, however, so the keeper
needs no count and no list: when it gets the lock for itself, nobody is left, and it ends the server.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.postgres import Cluster, load, record, server_command
from deployments.services import START_LIMIT_S, ServiceError, log_file, tail
from tasks.workspace import home, storage_errors

_LOOK_EVERY_S = 0.25
_STOP_LIMIT_S = 60
_MAX_STARTS = 5
"""Attempts within one start: a server that was killed leaves helpers, which need a moment to end."""


def _open_lock(name: str) -> int:
    path = home() / "postgres" / f"{name}.lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _take(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kept() -> bool:
    """Return whether a keeper lives, and so its server, or soon."""
    fd = _open_lock("keeper")
    try:
        return not _take(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def start_keeper() -> "subprocess.Popen[bytes]":
    """Start a keeper; where there is one already, the new one ends at once."""
    log = log_file("postgres")
    with storage_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            # Nobody's child in spirit: it outlives who started it if others need the server.
            return subprocess.Popen(
                [sys.executable, "-m", "deployments.keeper"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "TRAINYARD_HOME": str(home())},
            )


@contextmanager
def postgres_up() -> Iterator[Cluster]:
    """Have the home's PostgreSQL up for the block; it ends with the last one who needs it.

    Raises:
        ServiceError: it does not start; with the end of its log.
    """
    cluster = load()
    record(cluster)  # the home may have been moved
    users = _open_lock("users")
    try:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a keeper that is just ending its server
        _ensure(cluster)
        yield cluster
    finally:
        last = _take(users, fcntl.LOCK_EX)
        os.close(users)
        deadline = time.monotonic() + _STOP_LIMIT_S
        while last and kept() and time.monotonic() < deadline:
            time.sleep(0.05)


def _ensure(cluster: Cluster) -> None:
    for _ in range(_MAX_STARTS):
        keeper = None if kept() else start_keeper()
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if cluster.ready() and kept():
                return
            if keeper is not None and keeper.poll() is not None and not kept():
                break
            time.sleep(0.05)
        time.sleep(1)
    log = log_file("postgres")
    raise ServiceError(f"PostgreSQL does not start; the end of {log}:\n{tail(log)}")


def main() -> None:
    """Run the server until nobody shares the lock `users`; exit with 1 if the server ended before."""
    lock, users = _open_lock("keeper"), _open_lock("users")
    deadline = time.monotonic() + 1
    while not _take(lock, fcntl.LOCK_EX):  # others take it for a moment, to see whether it is held
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)
    cluster = load()
    user = f"--user={cluster.user.uid}:{cluster.user.gid}" if cluster.user.uid != os.geteuid() else ""
    tether = [sys.executable, "-m", "deployments.tether", "--signal=INT", *filter(None, [user])]
    process = subprocess.Popen([*tether, *server_command(cluster)], cwd="/", stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while not _take(users, fcntl.LOCK_EX):
            if process.poll() is not None:
                sys.exit(1)
            time.sleep(_LOOK_EVERY_S)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)  # its fast way: open connections are closed, nothing is lost
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # at once; the next start recovers from its journal
        process.wait()


if __name__ == "__main__":
    main()
