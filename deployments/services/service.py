"""Starts a program beside this one, waits until it works, and ends it."""

import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.processes import end_child
from tasks.base.servers.guard import LOOPBACKS
from tasks.base.servers.tls import MLFLOW, PREFECT, trusted
from tasks.base.startup import module_command
from tasks.base.workspace import home, storage_errors

LOOPBACK = "127.0.0.1"
START_LIMIT_S = 240
"""Long enough for a machine that is busy with training; a program that cannot start ends by itself, far earlier."""

STOP_LIMIT_S = 15
_LOG_LIMIT_BYTES = 20 * 2**20


class ServiceError(TrainyardError):
    """A local service does not start or does not answer."""


class Program(Protocol):
    """Something that is started, and after a while works."""

    @property
    def name(self) -> str:
        """In messages."""
        ...

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""
        ...

    @property
    def env(self) -> Mapping[str, str]:
        """Settings on top of this process's own."""
        ...

    @property
    def log(self) -> Path:
        """The file of what it prints."""
        ...

    @property
    def death_signal(self) -> str:
        """What it gets when the process that started it dies."""
        ...

    def answers(self, since: int) -> bool:
        """Whether it works; `since`: the size of its log when it was started."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """A program that listens on a port of the loopback address.

    Args:
        name: in messages and of the log file.
        argv: the command.
        port: it listens on.
        health: path that answers 200 once it works.
        env: settings on top of this process's own.
    """

    name: str
    argv: tuple[str, ...]
    port: int
    health: str
    env: dict[str, str]
    death_signal: str = "TERM"

    @property
    def url(self) -> str:
        """Return where the service is."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file of what the service prints."""
        return log_file(self.name)

    def answers(self, since: int = 0) -> bool:
        """Return whether it works."""
        return healthy(self.url + self.health)


@dataclass(frozen=True, slots=True)
class Announcing:
    """A program that listens nowhere, and prints a line when it works.

    Args:
        name: in messages and of the log file.
        argv: the command.
        env: settings on top of this process's own.
        line: the beginning of what it prints then.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    line: str
    death_signal: str = "TERM"

    @property
    def log(self) -> Path:
        """Return the file of what it prints."""
        return log_file(self.name)

    def answers(self, since: int) -> bool:
        """Return whether it has printed its line."""
        with self.log.open("rb") as log:
            log.seek(since)
            return any(line.startswith(self.line.encode()) for line in log)


def log_file(name: str) -> Path:
    """Return the file of what a program of this home prints."""
    return home() / "logs" / f"{name}.log"


_given: deque[int] = deque(maxlen=64)
"""Ports that `free_port` has found last: of two services that are about to start, neither gets the other's."""


def free_port() -> int:
    """Return a port that nobody listens on now, another one than the times before."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.append(port)
            return port


def check_port(port: int, name: str) -> None:
    """Hold the port of a service against who listens on this machine.

    Raises:
        ServiceError: somebody does.
    """
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, port)) == 0:
            raise ServiceError(f"port {port} is taken, {name} needs it: choose another one, or stop who listens there")


def check_closed(name: str, host: str, asks: bool) -> None:
    """Hold the address that a server is to listen on against whether it asks who comes.

    Raises:
        ConfigError: it is another one than this machine's own, and the server asks nobody.
    """
    if host not in LOOPBACKS and not asks:
        raise ConfigError(
            f"found the address {host!r} for {name}, which asks nobody who they are: need {LOOPBACK}, or a password "
            "(`yard auth init`)"
        )


def spawn(program: Program) -> "subprocess.Popen[bytes]":
    """Start a program that ends with this process, in a session of its own; what it prints is added to its log.

    Raises:
        StorageError: the log cannot be written.
    """
    with storage_errors(program.log):
        program.log.parent.mkdir(parents=True, exist_ok=True)
        if program.log.exists() and program.log.stat().st_size > _LOG_LIMIT_BYTES:
            program.log.replace(program.log.with_suffix(".old.log"))
        with program.log.open("ab") as log:
            return subprocess.Popen(
                module_command("gpu_pools.process.parent_death", f"--signal={program.death_signal}", *program.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **program.env},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the service in order
            )


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """Run a service for the block; it ends with this process however that ends.

    Raises:
        ServiceError: its port is taken, or it ends or stays silent instead of answering.
    """
    check_port(service.port, service.name)
    process = spawn(service)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not service.answers():
            check_start(service, process.poll(), deadline)
            time.sleep(0.1)
        yield service
    finally:
        stop(process)


def check_start(program: Program, code: int | None, deadline: float) -> None:
    """Look after a program that does not answer yet.

    Args:
        program: the one.
        code: its exit code, None while it runs.
        deadline: `time.monotonic()` at which it is given up.

    Raises:
        ServiceError: it ended, or the time is over; with the end of its log.
    """
    if code is not None:
        raise ServiceError(
            f"{program.name} ended with code {code} at its start; the end of {program.log}:\n" + tail(program.log)
        )
    if time.monotonic() > deadline:
        raise ServiceError(
            f"{program.name} did not answer within {START_LIMIT_S} s; the end of {program.log}:\n" + tail(program.log)
        )


def tail(path: Path, n_lines: int = 12) -> str:
    """Return the last lines of a log."""
    if not path.exists():
        return "(nothing)"
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 64 * 1024))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-n_lines:])


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a service with all that it has started, in order if it can."""
    end_child(process, STOP_LIMIT_S)
    kill_session(process.pid)


def kill_session(session: int) -> None:
    """Kill what is left of a service that has ended: MLflow's own server is a child of its command."""
    try:
        os.killpg(session, 9)
    except ProcessLookupError:
        return


def healthy(url: str) -> bool:
    """Return whether `url` answers with success within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2, context=_context(url)) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _context(url: str) -> ssl.SSLContext | None:
    """Return whose certificates count; a health is asked of Prefect's API below `/api`, else of MLflow."""
    if not url.startswith("https://"):
        return None  # to make one takes 20 ms
    return trusted(PREFECT if "/api" in url else MLFLOW)


def server_time(api: str) -> datetime:
    """Return the time on the machine of a Prefect API, to the second; that of this one where it does not say."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5, context=_context(api)) as answer:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
    except (urllib.error.URLError, OSError, TypeError, ValueError):
        return datetime.now(UTC)
