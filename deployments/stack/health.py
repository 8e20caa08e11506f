"""Checks whether all of the stack is well."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deployments.api import connect
from deployments.inbox.report import inbox_report
from deployments.notices.notice_report import notice_faults
from deployments.runs.prefect_http import QueueCount, ask, asking, online_workers, queue_counts
from deployments.runs.sync import count_unsent
from deployments.services.service import ServiceError, healthy, log_file, server_time, tail
from deployments.services.shared_postgres import postgres_keeper
from deployments.sharing.bookings import BookingRow, next_of_each
from deployments.stack.background import local_faults, named_server, unguarded
from deployments.stack.draining import drain_note
from deployments.stack.stack import known_stack, stack_record
from deployments.stack.undone import undone
from gpu_pools.names import worker_label
from gpu_pools.placement.disk import read_disk
from gpu_pools.slurm.request import HOST as SLURM
from tasks.base.errors import ConfigError, StorageError
from tasks.base.processes import identity
from tasks.base.servers.alive import supervisor
from tasks.base.servers.database import postgres_record, uses_postgres
from tasks.base.workspace import home

LOW_FREE_MIB = 1024
"""Less room is a fault: a run writes its checkpoints, and a database its journal."""

_HEALTH = {"prefect": "/api/health", "mlflow": "/health"}
_VERSION = {"prefect": "/api/admin/version", "mlflow": "/version"}


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A server of the stack; `version` and `pid` are None where they are not known."""

    url: str
    healthy: bool
    version: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """A worker; `pid` is None for one of another host."""

    name: str
    online: bool
    pid: int | None


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the stack of a home; its fields are the keys of `--json`.

    Args:
        well: whether there is no fault.
        faults: what is not well, a sentence each.
        supervisor: process that keeps the stack up, None where there is none.
        database: of this home; empty for a server elsewhere, which has its own.
        inbox: of this home, what waits in it, is being taken, and was rejected lately; empty where there is none.
        unsent_runs: runs of this home that ended with something that MLflow has not got yet.
        bookings: of each device the one that is now, or comes next.
    """

    well: bool
    faults: list[str]
    home: str
    supervisor: int | None
    database: dict[str, Any]
    disk_free_mib: int
    services: dict[str, ServiceHealth] = field(default_factory=dict)
    workers: list[WorkerHealth] = field(default_factory=list)
    queues: list[QueueCount] = field(default_factory=list)
    inbox: dict[str, Any] = field(default_factory=inbox_report)
    unsent_runs: int = field(default_factory=count_unsent)
    bookings: list[BookingRow] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        return asdict(self)


def check() -> Health:
    """Look at the server that PREFECT_API_URL names, else at the stack of this home.

    Raises:
        StorageError: a file in which it says where it is, is damaged.
    """
    known_stack()  # a lab says where its passwords and certificates are
    record, pid, faults = stack_record(), supervisor(), []
    if url := named_server(record):
        return _elsewhere(url)
    if not record or pid is None:
        faults.append(_down(record, pid))
    services = {name: _service(record, name) for name in _HEALTH if record}
    for name, service in services.items():
        if not service.healthy:
            faults.append(_sick(record, name, service))
    faults += _dead_processes(record)
    faults += (lab := _lab_faults(record))
    database = _database(record, lab)
    if record and not database["up"] and not lab:
        faults.append(f"PostgreSQL is not up; the end of {log_file('postgres')}:\n{tail(log_file('postgres'), 5)}")
    up = bool(services) and services["prefect"].healthy
    workers, queues, bookings = _of_server(record, faults) if up else ([], [], [])
    faults += [f"worker {worker.name} is not online" for worker in workers if not worker.online]
    disk = read_disk()
    free_mib = disk.free // 2**20
    if disk.low:
        faults.append(disk.sentence())
    elif free_mib < LOW_FREE_MIB:
        faults.append(f"found {free_mib} MiB free at {home()}, need {LOW_FREE_MIB}: free room there")
    faults += notice_faults()
    known = (services, workers, queues)
    return Health(not faults, faults, str(home()), pid, database, free_mib, *known, bookings=bookings)


def _elsewhere(api: str) -> Health:
    """Look at the servers that the environment names; what they run on is not known here."""
    faults: list[str] = []
    page = api.removesuffix("/api")
    services = {"prefect": ServiceHealth(page, False, None, None)}
    workers: list[WorkerHealth] = []
    queues: list[QueueCount] = []
    bookings: list[BookingRow] = []
    try:
        with connect() as asked:
            services["prefect"] = ServiceHealth(page, True, str(asked.call("GET", "/admin/version")), None)
            workers = [WorkerHealth(name, True, None) for name in online_workers(asked.call)]
            queues = queue_counts(asked.call)
            bookings = next_of_each(asked.call)
            faults += undone(asked.call, server_time(api)) + unguarded(api)
    except (ServiceError, ConfigError, StorageError) as exc:
        faults.append(str(exc))
    url = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if url.startswith("http"):
        services["mlflow"] = ServiceHealth(url, healthy(url + _HEALTH["mlflow"]), None, None)
        if not services["mlflow"].healthy:
            faults.append(f"mlflow does not answer at {url}")
    free_mib = shutil.disk_usage(home() if home().exists() else home().parent).free // 2**20
    known = (services, workers, queues)
    return Health(not faults, faults, str(home()), None, {}, free_mib, *known, bookings=bookings)


def _dead_processes(record: dict[str, Any]) -> Iterator[str]:
    """Yield which of a lab's processes is gone: behind a proxy the others answer for it."""
    for program, number in record.get("pids", {}).items() if "lab" in record else ():
        if identity(number) is None:
            yield f"{program} is being started again; the end of {log_file(program)}:\n{tail(log_file(program), 5)}"


def _down(record: dict[str, Any], pid: int | None) -> str:
    if pid is not None:
        return f"the services are being started or stopped by process {pid}"
    if record:
        return "the process that kept the services up is gone: `yard up` starts them again"
    return "the services are not up: `yard up` starts them"


def _service(record: dict[str, Any], name: str) -> ServiceHealth:
    url: str = record[name]
    works, version = healthy(url + _HEALTH[name]), None
    if works:
        try:
            version = str(ask(url, ("GET", _VERSION[name], None))[0])
        except ServiceError:  # it listens, but its database is away
            works = False
    pid = next((number for program, number in record.get("pids", {}).items() if program.startswith(name)), None)
    return ServiceHealth(url, works, version, pid if pid and identity(pid) else None)


def _sick(record: dict[str, Any], name: str, service: ServiceHealth) -> str:
    program = next((program for program in record.get("pids", {}) if program.startswith(name)), name)
    log = log_file(program)
    proxied = ", where the lab has its proxy" if "lab" in record else ""
    return f"{name} does not answer at {service.url}{proxied}; the end of {log}:\n{tail(log, 5)}"


def _lab_faults(record: dict[str, Any]) -> list[str]:
    """Return what is wrong with the servers of a lab that this host's services stand on."""
    if "lab" not in record or "prefect-services" not in record.get("pids", {}):
        return []
    from deployments.lab.checks import check_servers
    from deployments.lab.config import read_config

    try:
        return check_servers(read_config(Path(record["lab"]), ("services",)))
    except (ConfigError, StorageError) as exc:
        return [str(exc)]


def _database(record: dict[str, Any], lab_faults: list[str]) -> dict[str, Any]:
    if lab := record.get("lab"):
        up = not any(fault.startswith("PostgreSQL") for fault in lab_faults)
        return {"kind": "postgres", "version": None, "place": f"the lab of {lab}", "up": up}
    if uses_postgres():
        found = postgres_record()
        return {
            "kind": "postgres",
            "version": found["major"],
            "place": str(home() / found["data"]),
            "up": postgres_keeper().alive(),
        }
    return {"kind": "sqlite", "version": None, "place": str(home() / "prefect" / "prefect.db"), "up": True}


def _of_server(
    record: dict[str, Any], faults: list[str]
) -> tuple[list[WorkerHealth], list[QueueCount], list[BookingRow]]:
    api = f"{record['prefect']}/api"
    try:
        with asking(api) as call:
            online = online_workers(call)
            queues = queue_counts(call)
            bookings = next_of_each(call)
            faults += filter(None, [drain_note(call)])
            faults += local_faults(record, call)
    except (ServiceError, StorageError) as exc:  # it has died in between; the rest is worth showing
        faults.append(str(exc))
        return [], [], []
    here = {worker_label(name): pid for name, pid in record.get("workers", {}).items()}
    here |= {name: pid for name, pid in record.get("pids", {}).items() if name == SLURM}  # looks after runs, too
    names = sorted({*here, *online})
    return [WorkerHealth(name, name in online, here.get(name)) for name in names], queues, bookings
