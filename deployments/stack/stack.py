"""Says where Prefect and MLflow are: the running stack's, somebody else's, or a command's own."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deployments.services.database import database_up
from deployments.services.programs import mlflow_service, prefect_service
from deployments.services.service import LOOPBACK, Service, ServiceError, check_port, free_port, healthy, running
from deployments.services.shared_api import SharedApi, share_api
from tasks.base.errors import ConfigError, StorageError
from tasks.base.servers.alive import supervisor
from tasks.base.servers.mlflow_account import account, account_variables, let_in
from tasks.base.servers.password import CLIENT, FOLDER, known_password, password
from tasks.base.servers.tls import MLFLOW, PREFECT
from tasks.base.workspace import home

__all__ = [
    "LOOPBACK",
    "Service",
    "ServiceError",
    "check_port",
    "choose_api",
    "environment_of",
    "free_port",
    "healthy",
    "known_stack",
    "mlflow_service",
    "prefect_service",
    "running",
    "running_stack",
    "services_file",
    "serving",
    "stack_environment",
    "stack_record",
]

_PATIENCE_S = 10.0


def services_file() -> Path:
    """Return the file in which a running stack says where it is."""
    return home() / "services.json"


def stack_record() -> dict[str, Any]:
    """Return what the stack of this home has written about itself, empty when there is nothing.

    Keys: `prefect` and `mlflow` (addresses), `pids` (program -> process), `supervisor` (process), `workers`
    (name -> process), `database` (kind), `since`; of a lab also `lab` (its file) and `certificates`.

    Raises:
        StorageError: the file is damaged.
    """
    path = services_file()
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if all(record[name].startswith(("http://", "https://")) for name in ("prefect", "mlflow")):
            return record
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StorageError(f"cannot read {path}: need the addresses of the services; remove it") from exc
    raise StorageError(f"cannot read {path}: need the addresses of the services; remove it")


def known_stack() -> dict[str, str]:
    """Return the addresses of the stack that a process keeps up on this TRAINYARD_HOME, whether it answers or not.

    Raises:
        StorageError: the file that names them is damaged.
    """
    record = stack_record() if supervisor() is not None else {}
    _heed(record)
    return {name: record[name] for name in ("prefect", "mlflow")} if record else {}


def _heed(record: Mapping[str, Any]) -> None:
    """Let this process know where a lab has its passwords and certificates."""
    for name in (FOLDER, PREFECT.file, MLFLOW.file):
        if value := record.get(name):
            os.environ.setdefault(name, value)


def running_stack() -> dict[str, str]:
    """Return the addresses of the stack on this TRAINYARD_HOME, empty when none is up.

    Raises:
        StorageError: the file that names them is damaged.
        ServiceError: it is up, and its Prefect does not answer.
    """
    record = stack_record()
    deadline = time.monotonic() + _PATIENCE_S  # a server that died is started again meanwhile
    # Without the supervisor another program may have the port, and would be shown passwords.
    while record and (pid := supervisor()) is not None:
        _heed(record)
        if healthy(record["prefect"] + "/api/health"):
            return {name: record[name] for name in ("prefect", "mlflow")}
        if time.monotonic() > deadline:
            raise ServiceError(
                f"Prefect at {record['prefect']} does not answer, though process {pid} keeps it up: `yard status` "
                "says more; it is busy, stopped, or being started again"
            )
        time.sleep(0.2)
    return {}


def stack_environment() -> dict[str, str]:
    """Return the variables under which a process finds the running stack.

    Raises:
        ConfigError: none is up.
    """
    stack = running_stack()
    if not stack:
        raise ConfigError(f"found no services up for {home()}: `yard up` starts them")
    return environment_of(stack)


def environment_of(stack: Mapping[str, str]) -> dict[str, str]:
    """Return the variables under which a process finds these addresses, is let in, and prints links that lead there."""
    found = {
        "PREFECT_API_URL": f"{stack['prefect']}/api",
        "PREFECT_UI_URL": stack["prefect"],
        "MLFLOW_TRACKING_URI": stack["mlflow"],
    }
    known = password()
    return {**found, **account_variables(account()), **({CLIENT: known} if known else {})}


def choose_api() -> SharedApi | None:
    """Point this process at a Prefect API, before Prefect is imported, which reads its address once.

    Returns:
        This process's share of the API that the runs of a home bring along (see `serving`), or None when one is up:
        the stack's, or the one that PREFECT_API_URL names.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        be_let_in(url)
        return None
    if stack := running_stack():
        os.environ |= {name: value for name, value in environment_of(stack).items() if name.startswith("PREFECT_")}
        if os.environ.setdefault("MLFLOW_TRACKING_URI", stack["mlflow"]) == stack["mlflow"]:
            let_in(stack["mlflow"])
        return None
    api = share_api()
    os.environ |= {name: api.service.env[name] for name in ("PREFECT_API_URL", CLIENT) if name in api.service.env}
    return api


def be_let_in(url: str) -> None:
    """Let this process use the home's passwords, if `url` is the API of its stack and the environment has no others."""
    if known := known_password(url):
        os.environ.setdefault(CLIENT, known)
    if (tracked := os.environ.get("MLFLOW_TRACKING_URI", "")).startswith("http"):
        let_in(tracked)


@contextmanager
def serving(api: SharedApi | None) -> Iterator[None]:
    """Have up for the block what a run here needs and nobody else runs: the database, and Prefect's API.

    Args:
        api: as `choose_api` returned it.

    Raises:
        ServiceError: one of them does not start.
    """
    with ExitStack() as stack:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            stack.enter_context(database_up(make=False))
        if api is not None:
            stack.enter_context(api.up())
        yield


def mlflow_url() -> str:
    """Return where the yard's MLflow is: MLFLOW_TRACKING_URI, else that of this home's stack.

    Raises:
        ConfigError: neither says so.
    """
    if url := os.environ.get("MLFLOW_TRACKING_URI") or running_stack().get("mlflow"):
        return url
    raise ConfigError(
        "no MLflow server: set MLFLOW_TRACKING_URI to that of the yard, by ssh -L 5000:127.0.0.1:5000 YARD"
    )
