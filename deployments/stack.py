"""The local services: Prefect's server and MLflow's, on the loopback address, with their state in TRAINYARD_HOME."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.environment import ROOT
from tasks.errors import ConfigError, StorageError, TrainyardError
from tasks.workspace import home, storage_errors, write_json

LOOPBACK = "127.0.0.1"
START_LIMIT_S = 120


class ServiceError(TrainyardError):
    """A local service does not start or does not answer."""


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

    @property
    def url(self) -> str:
        """Return where the service is."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file of what the service prints."""
        return home() / "logs" / f"{self.name}.log"


def prefect_service(port: int, *, ui: bool) -> Service:
    """Return Prefect's server; without its UI for a run that brings its own."""
    argv = (_program("prefect"), "server", "start", "--host", LOOPBACK, "--port", str(port))
    return Service(
        f"prefect-{port}",
        argv,
        port,
        "/api/health",
        {
            "PREFECT_UI_ENABLED": str(ui).lower(),
            "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        },
    )


def mlflow_service(port: int) -> Service:
    """Return MLflow's server on the store that runs write to, with the settings of mlflow/server.env."""
    from tasks.store import tracking_uri

    tracking_uri()  # lays the database out as runs do; MLflow's own way makes writers wait for each other
    state = home() / "mlflow"
    argv = (
        *(_program("mlflow"), "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"),
        # Runs write their files themselves: with and without a server they read and write the same experiments.
        *("--default-artifact-root", str(state / "artifacts"), "--no-serve-artifacts"),
    )
    return Service(f"mlflow-{port}", argv, port, "/health", _settings(ROOT / "mlflow" / "server.env"))


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _settings(path: Path) -> dict[str, str]:
    """Return the NAME=VALUE lines of a file."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def check_port(service: Service) -> None:
    """Hold the port of a service against who listens on this machine.

    Raises:
        ServiceError: somebody does.
    """
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, service.port)) == 0:
            raise ServiceError(
                f"port {service.port} is taken, {service.name} needs it: choose another one, or stop who listens there"
            )


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """Run a service for the block; it ends with this process however that ends.

    Raises:
        ServiceError: its port is taken, or it ends or stays silent instead of answering.
    """
    check_port(service)
    with storage_errors(service.log):
        service.log.parent.mkdir(parents=True, exist_ok=True)
        with service.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.tether", *service.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **service.env},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the service in order
            )
    try:
        _wait_until_healthy(service, process)
        yield service
    finally:
        _stop(process)


def _wait_until_healthy(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not healthy(service.url + service.health):
        if process.poll() is not None:
            raise ServiceError(
                f"{service.name} ended with code {process.returncode} at its start; the end of {service.log}:\n"
                + _tail(service.log)
            )
        if time.monotonic() > deadline:
            raise ServiceError(f"{service.name} did not answer within {START_LIMIT_S} s; see {service.log}")
        time.sleep(0.1)


def _tail(path: Path, n_lines: int = 12) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-n_lines:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def healthy(url: str) -> bool:
    """Return whether `url` answers with success within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def services_file() -> Path:
    """Return the file in which a running stack says where it is."""
    return home() / "services.json"


def running_stack() -> dict[str, str]:
    """Return the addresses of the stack on this TRAINYARD_HOME, empty when none answers.

    Raises:
        StorageError: the file that names them is damaged.
    """
    path = services_file()
    if not path.is_file():
        return {}
    try:
        urls: dict[str, str] = json.loads(path.read_text())
    except ValueError as exc:
        raise StorageError(f"cannot read {path}: need the addresses of the services; remove it") from exc
    return urls if healthy(urls["prefect"] + "/api/health") else {}


def choose_api() -> Service | None:
    """Point this process at a Prefect API, before Prefect is imported, which reads its address once.

    Returns:
        The service to run for as long as the API is needed, or None when one is up: the stack's, or the one that
        PREFECT_API_URL names.
    """
    if os.environ.get("PREFECT_API_URL"):
        return None
    if stack := running_stack():
        os.environ["PREFECT_API_URL"] = f"{stack['prefect']}/api"
        os.environ.setdefault("MLFLOW_TRACKING_URI", stack["mlflow"])
        return None
    service = prefect_service(free_port(), ui=False)
    state = Path(os.environ.get("PREFECT_HOME", home() / "prefect"))
    with storage_errors(state):
        state.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only, and warns
    os.environ["PREFECT_API_URL"] = service.env["PREFECT_API_URL"]
    return service


@contextmanager
def local_stack(prefect_port: int, mlflow_port: int) -> Iterator[Sequence[Service]]:
    """Run both services for the block.

    Raises:
        ConfigError: a stack is up already.
        ServiceError: one of them does not start.
    """
    if urls := running_stack():
        raise ConfigError(f"the services are up already: {', '.join(urls.values())}")
    services = [prefect_service(prefect_port, ui=True), mlflow_service(mlflow_port)]
    for service in services:
        check_port(service)  # all of them before the first one takes its seconds to start
    with ExitStack() as stack:
        for service in services:
            stack.enter_context(running(service))
        write_json(services_file(), {"prefect": services[0].url, "mlflow": services[1].url})
        try:
            yield services
        finally:
            services_file().unlink(missing_ok=True)
