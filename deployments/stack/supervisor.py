"""Keeps the stack up: starts its programs in order, restarts what dies, and ends them in order."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from deployments.services.database import Database, database_up
from deployments.services.programs import (
    apply_program,
    inbox_program,
    mlflow_service,
    notices_program,
    prefect_service,
    slurm_program,
    worker_program,
)
from deployments.services.service import LOOPBACK, START_LIMIT_S, Program, ServiceError, check_port, check_start
from deployments.stack.child import Child, KeptPostgres
from deployments.stack.drain import drain
from deployments.stack.draining import announce, withdraw
from deployments.stack.pidfile import MARK, Say, only_one
from deployments.stack.stack import environment_of, services_file
from gpu_pools.names import host_name
from gpu_pools.slurm.commands import is_here
from tasks.base.errors import ConfigError, StorageError
from tasks.base.home import make_home
from tasks.base.workspace import home, write_json

LEAST_FREE_MIB = 256
"""Room that a stack needs to start: a PostgreSQL takes 70 MiB, and 16 MiB for each part of its journal."""

ASLEEP_S = 30.0
"""Between two looks at its programs a stack that runs takes no longer; a laptop that slept does."""

_TICK_S = 0.5
_ASKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
_HOSTS = ("PREFECT_SERVER_API_HOST", "PREFECT_SERVER_HOST", "MLFLOW_HOST")

Wait = Callable[[float], int | None]
"""Returns after so many seconds, or with the signal that came before."""


class _AskedToStop(Exception):
    """A signal came while the programs were being started."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The programs of a stack.

    Args:
        urls: prefect and mlflow, as everybody asks for them.
        env: the variables under which a program finds them.
        services: in the order of their starts; the first is the one that the pool is put into.
        workers: by name.
        engines: of another engine's queue; they need the pool, as workers do, and their jobs outlive them.
        applying: what gives Prefect its pool and deployments, and ends; None: another host does.
        known: what else is written down for the commands of this home.
    """

    urls: dict[str, str]
    env: dict[str, str]
    services: list[Program]
    workers: dict[str, Program]
    applying: Program | None
    engines: list[Program] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)


class Planned(Protocol):
    """What a supervisor keeps up: the stack of one box, or what of a lab belongs on this host."""

    @property
    def ports(self) -> list[tuple[str, int]]:
        """Return (service, port) of what will listen."""
        ...

    @property
    def words(self) -> tuple[str, ...]:
        """Return it as words, for the command of a supervisor in the background."""
        ...

    def database(self) -> AbstractContextManager[Database]:
        """Return what has the database up for a block."""
        ...

    def parts(self, database: Database) -> Parts:
        """Return the programs."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A stack on one box: both services with their database, and workers."""

    prefect_port: int
    mlflow_port: int
    n_workers: int

    @property
    def words(self) -> tuple[str, ...]:
        """Return it as words, for the command of a supervisor in the background."""
        return ("box", str(self.prefect_port), str(self.mlflow_port), str(self.n_workers))

    @property
    def ports(self) -> list[tuple[str, int]]:
        """Return (service, port) of what will listen."""
        return [("prefect", self.prefect_port), ("mlflow", self.mlflow_port)]

    def database(self) -> AbstractContextManager[Database]:
        """Return what has the home's database up for a block."""
        return database_up(make=True)

    def parts(self, database: Database) -> Parts:
        """Return its programs."""
        mark = {MARK: str(home())}
        prefect = prefect_service(self.prefect_port, ui=True)
        prefect = replace(prefect, env=prefect.env | database.settings | mark)
        mlflow = mlflow_service(self.mlflow_port)
        mlflow = replace(mlflow, env=mlflow.env | mark)
        urls = {"prefect": prefect.url, "mlflow": mlflow.url}
        env = environment_of(urls)
        services: list[Program] = [prefect, mlflow]
        if self.n_workers:  # else nothing starts
            services += [inbox_program(env), notices_program(env)]
        engines = engines_of(env) if self.n_workers else []
        return Parts(urls, env, services, workers_of(self.n_workers, env), apply_program(env), engines)


def engines_of(env: dict[str, str]) -> list[Program]:
    """Return what hands runs to another engine of this host.

    Args:
        env: where it finds the servers.
    """
    return [slurm_program(env)] if is_here() else []


def workers_of(number: int, env: dict[str, str]) -> dict[str, Program]:
    """Return the workers of this host by name.

    Args:
        number: of them.
        env: where they find the servers.
    """
    names = [host_name(), *(f"{host_name()}/{n}" for n in range(2, number + 1))]
    return {name: worker_program(name, env) for name in names[:number]}


class Supervisor:
    """Runs one stack.

    Args:
        plan: what it is made of.
        say: tells people, and the log, what happens.
    """

    def __init__(self, plan: Planned, say: Say) -> None:
        self._plan, self._say = plan, say
        self._database = Database("sqlite", (), None)
        self._parts = Parts({}, {}, [], {}, None)
        self._postgres = KeptPostgres()
        self._services: list[Child] = []
        self._workers: dict[str, Child] = {}  # by name
        self._written: tuple[dict[str, int], str] = ({}, "")
        self._woke = ""
        self._trouble = ""
        self._announced = False
        self._since = datetime.now(UTC).isoformat(timespec="seconds")

    def run(self, ready: Callable[[], None]) -> None:
        """Have the stack up until a signal asks for its end, and until the runs of its workers have ended then.

        Args:
            ready: called when all of it works.

        Raises:
            ConfigError: a stack is up already, or it was asked to listen to other machines.
            ServiceError: a part does not start.
            StorageError: the disk is full.
        """
        for name in _HOSTS:
            check_host(name, os.environ.get(name, ""))
        _check_room()
        with _signals() as wait, only_one(self._say), ExitStack() as stack:
            self._check_ports()
            self._database = stack.enter_context(self._plan.database())
            for note in self._database.notes:
                self._say(note)
            stack.callback(self._end)
            try:
                self._start(wait)
                ready()
                self._serve(wait)
            except _AskedToStop:
                self._say("asked to stop before all was up")

    def _check_ports(self) -> None:
        ports = [port for _, port in self._plan.ports]
        if len(set(ports)) < len(ports):
            raise ConfigError(f"found port {max(ports, key=ports.count)} for both services, need two")
        for name, port in self._plan.ports:
            check_port(port, name)  # all, before the first one takes its seconds to start

    def _start(self, wait: Wait) -> None:
        self._parts = parts = self._plan.parts(self._database)
        self._services = [Child(program) for program in parts.services]
        self._workers = {name: Child(program) for name, program in parts.workers.items()}
        applying = [Child(parts.applying)] if parts.applying else []
        for child in (*self._services, *applying):
            child.start()
        # Each of them loads for seconds, so they are started at the same time.
        self._await([*self._services[:1], *applying], wait)
        engines = [Child(program) for program in parts.engines]
        self._services += engines
        for child in (*engines, *self._workers.values()):
            child.start()
        self._await([*self._services, *self._workers.values()], wait)
        deadline = time.monotonic() + START_LIMIT_S
        # Where the services are, by the first of them, which gets the pool as well: their proxy may be started later.
        self._withdraw((parts.applying or parts).env["PREFECT_API_URL"], deadline, wait)
        while any(child.code != 0 for child in applying):
            for child in applying:
                check_start(child.program, child.code, deadline)
            if wait(0.1):
                raise _AskedToStop
        self._write()

    def _withdraw(self, url: str, deadline: float, wait: Wait) -> None:
        """Take back what an earlier stack said when it drained.

        A proxy before the services may need some seconds more than they do until it takes them for started.
        """
        while True:
            try:
                return withdraw(url)
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
            if wait(0.5):
                raise _AskedToStop

    def _await(self, children: Sequence[Child], wait: Wait) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while pending := [child for child in children if not child.answers()]:
            for child in pending:
                check_start(child.program, child.code, deadline)
            if wait(0.1):
                raise _AskedToStop

    def _write(self) -> None:
        """Write down where everything is, if that has changed."""
        children = [*self._services, *self._workers.values()]
        pids = {child.program.name: child.process.pid for child in children if child.process is not None}
        if (pids, self._woke) == self._written:
            return
        content = {
            **self._parts.urls,
            **self._parts.known,
            "database": self._database.kind,
            "supervisor": os.getpid(),
            "pids": pids,
            "workers": {name: pids[child.program.name] for name, child in self._workers.items()},
            "since": self._since,
            "woke": self._woke,
        }
        write_json(services_file(), content)
        self._written = (pids, self._woke)

    def _serve(self, wait: Wait) -> None:
        seen = time.time()
        while (asked := wait(_TICK_S)) is None:
            if time.time() - seen > ASLEEP_S:
                self._woke = datetime.now(UTC).isoformat(timespec="seconds")
                self._say(f"the machine slept, or stood still, for {time.time() - seen:.0f} s")
            seen = time.time()
            self._tend([*self._services, *self._workers.values()])
        drain(self._workers, asked, wait, self._tend_while_draining, self._say)

    def _tend_while_draining(self) -> None:
        if not self._announced:
            self._announced = True
            with suppress(ServiceError):  # a server that does not answer starts nothing either
                announce(self._parts.env["PREFECT_API_URL"])
        self._tend(self._services)

    def _tend(self, children: Sequence[Child]) -> None:
        try:
            news = [self._postgres.tend()] if self._database.kept else []
            news += [child.tend() for child in children]
            for text in filter(None, news):
                self._say(text)
            self._write()
            self._trouble = ""
        except StorageError as exc:  # a full disk must not end what works
            if str(exc) != self._trouble:
                self._trouble = str(exc)
                self._say(f"goes on, but: {exc}")

    def _end(self) -> None:
        for child in self._workers.values():  # they have no runs by now, unless something failed; such runs live on
            child.signal(signal.SIGKILL)
        for child in self._services:
            child.signal(signal.SIGTERM)  # all of them, before the wait for one
        for child in (*self._workers.values(), *self._services):
            child.stop()


@contextmanager
def _signals() -> Iterator[Wait]:
    """Yield what waits for the signals that ask for the end, which are kept until then."""

    def wait(seconds: float) -> int | None:
        found = signal.sigtimedwait(_ASKED, seconds)
        return found.si_signo if found else None

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED)
    try:
        yield wait
    finally:
        while wait(0):
            pass  # a second signal: all has ended
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_host(name: str, value: str) -> None:
    """Hold an address to listen on, empty for none, against the only one there is.

    Raises:
        ConfigError: it is another one.
    """
    if value not in ("", LOOPBACK, "localhost"):
        raise ConfigError(
            f"found {name}={value}: the services listen on {LOOPBACK} only; "
            f"from another machine: ssh -L 4200:{LOOPBACK}:4200 -L 5000:{LOOPBACK}:5000 THIS-MACHINE"
        )


def _check_room() -> None:
    make_home(close=True)
    free_mib = shutil.disk_usage(home()).free // 2**20
    if free_mib < LEAST_FREE_MIB:
        raise StorageError(f"disk full: found {free_mib} MiB free at {home()}, need {LEAST_FREE_MIB}: free room there")
