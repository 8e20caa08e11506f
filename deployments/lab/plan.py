"""The programs of a lab that belong on this host, with their settings."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from deployments.lab.checks import check_lab
from deployments.lab.config import DatabaseConfig, FilesConfig, LabConfig, RedisConfig, read_config
from deployments.machine.environment import make_prefect_home
from deployments.services.database import Database
from deployments.services.mlflow_server import BACKEND
from deployments.services.programs import (
    apply_program,
    inbox_program,
    mlflow_service,
    notices_program,
    prefect_service,
)
from deployments.services.service import Announcing, Program, Service, ServiceError
from deployments.stack.pidfile import MARK
from deployments.stack.stack import environment_of
from deployments.stack.supervisor import Parts, engines_of, workers_of
from tasks.base.errors import ConfigError
from tasks.base.servers.guard import HOSTS, LOOPBACKS, listed
from tasks.base.servers.password import FOLDER
from tasks.base.servers.tls import MLFLOW, PREFECT
from tasks.base.startup import module_command
from tasks.base.workspace import home
from tasks.store.setting import LOST_AFTER, SHARED_DISK

SERVICES_START = "Starting services"
"""Printed by `prefect server services start`."""


@dataclass(frozen=True, slots=True)
class LabPlan:
    """What of a lab belongs on this host.

    Args:
        path: of its file.
        config: what the file says.
    """

    path: Path
    config: LabConfig

    @classmethod
    def of_file(cls, path: Path, here: Sequence[str] = ()) -> Self:
        """Return what a file says, and let this process know where passwords and certificates are.

        Raises:
            ConfigError: the file is wrong; each fault with its place.
        """
        config = read_config(path, here)
        os.environ[FOLDER] = str(config.auth)
        os.environ[SHARED_DISK] = "yes" if config.shared_disk else "no"
        os.environ[LOST_AFTER] = config.host_lost_after
        if config.certificates:
            os.environ[PREFECT.file] = os.environ[MLFLOW.file] = str(config.certificates)
        # By these names people ask for the services, through the proxy.
        names = {urlsplit(url).hostname or "" for url in (config.prefect, config.mlflow)}
        os.environ[HOSTS] = ",".join(sorted({*listed(HOSTS), *names} - LOOPBACKS))
        return cls(path, config)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Self:
        """Return the plan of `words`, in a process of its own."""
        path, *here = words
        return cls.of_file(Path(path), here)

    @property
    def words(self) -> tuple[str, ...]:
        """Return it as words, for the command of a supervisor in the background."""
        return ("lab", str(self.path.absolute()), *self.config.here)

    @property
    def ports(self) -> list[tuple[str, int]]:
        """Return (service, port) of what will listen."""
        if "services" not in self.config.here:
            return []
        return [*(("prefect", port) for port in self.config.ports), ("mlflow", self.config.mlflow_port)]

    def check(self, *, upgrade: bool = False) -> None:
        """Look at all that this host needs.

        Args:
            upgrade: tables of an older version are no fault.

        Raises:
            ConfigError: something is wrong, a sentence each.
        """
        make_prefect_home()
        if faults := check_lab(self.config, upgrade=upgrade):
            raise ConfigError("\n".join(faults))

    def upgrade(self) -> None:
        """Bring the tables of both databases up to date, and make them where there are none.

        Raises:
            ServiceError: that fails; with the end of what was printed.
        """
        database, redis = self.config.database, self.config.redis
        if database is None or redis is None or "services" not in self.config.here:
            return
        words = ("server", "database", "upgrade", "--yes")
        prefect = module_command("deployments.services.prefect_server", *words)
        _run(prefect, "Prefect", prefect_settings(database, redis))
        mlflow = module_command("deployments.lab.mlflow_tables")
        _run(mlflow, "MLflow", {BACKEND: database.url("psycopg", database.mlflow)})

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Yield what is written down of the database, which is somebody else's to keep up."""
        yield Database("postgres", (), None)

    def parts(self, database: Database) -> Parts:
        """Return the programs of this host."""
        config = self.config
        urls = {"prefect": config.prefect.rstrip("/").removesuffix("/api"), "mlflow": config.mlflow.rstrip("/")}
        env = environment_of(urls)
        services: list[Program] = []
        applying = None
        if config.database and config.redis and config.files and "services" in config.here:
            services = lab_services(config, config.database, config.redis, config.files)
            # By the first process itself: the proxy may be started later.
            applying = apply_program(env | {"PREFECT_API_URL": f"{config_url(config)}/api"})
            services.append(notices_program(env | {"PREFECT_API_URL": f"{config_url(config)}/api"}))
        if "inbox" in config.here:
            services.append(inbox_program(env))
        workers = workers_of(config.workers if "worker" in config.here else 0, env)
        engines = engines_of(env) if "worker" in config.here else []
        known = {"lab": str(self.path.absolute()), FOLDER: str(config.auth)}
        if config.certificates:
            known |= {PREFECT.file: str(config.certificates), MLFLOW.file: str(config.certificates)}
        return Parts(urls, env, services, workers, applying, engines, known)


def config_url(config: LabConfig) -> str:
    """Return the address of the first of Prefect's processes on this host."""
    return f"http://127.0.0.1:{config.first_port}"


def lab_services(config: LabConfig, database: DatabaseConfig, redis: RedisConfig, files: FilesConfig) -> list[Program]:
    """Return Prefect's processes, what works behind them, and MLflow."""
    mark = {MARK: str(home())}
    page = config.prefect.rstrip("/").removesuffix("/api")
    prefect = prefect_programs(config.ports, page, prefect_settings(database, redis) | mark)
    return [*prefect, lab_mlflow(config.mlflow_port, database, files, mark)]


def prefect_programs(ports: Sequence[int], page: str, settings: dict[str, str]) -> list[Program]:
    """Return Prefect's processes, and the one that works behind them.

    Args:
        ports: of the processes.
        page: the address of Prefect's page, for notices.
        settings: of all of them.
    """
    programs: list[Program] = []
    for port in ports:
        one = prefect_service(port, ui=True)
        # One alone: at the first start two would write the same types of blocks.
        first = {"PREFECT_API_BLOCKS_REGISTER_ON_START": str(port == ports[0]).lower()}
        programs.append(replace(one, argv=(*one.argv, "--no-services"), env=one.env | settings | first))
    argv = module_command("deployments.lab.behind")
    behind = prefect_service(ports[0], ui=True).env | settings | {"PREFECT_UI_URL": page, "PYTHONUNBUFFERED": "1"}
    return [*programs, Announcing("prefect-services", tuple(argv), behind, SERVICES_START)]


def prefect_settings(database: DatabaseConfig, redis: RedisConfig) -> dict[str, str]:
    """Return what Prefect's processes must know to work side by side."""
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url("asyncpg", database.prefect),
        # Once before any of them starts: side by side they would make the same tables.
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_URL": redis.url,
        "PREFECT_SERVER_DOCKET_URL": redis.url,
    }


def lab_mlflow(port: int, database: DatabaseConfig, files: FilesConfig, mark: dict[str, str]) -> Service:
    """Return MLflow's server; files go through it, so that nobody else needs the key of the bucket."""
    one = mlflow_service(port)
    at = one.argv.index("--default-artifact-root")
    name, secret = files.key or ("", "")
    env = {
        **one.env,
        **mark,
        BACKEND: database.url("psycopg", database.mlflow),
        "MLFLOW_SERVE_ARTIFACTS": "true",
        "MLFLOW_ARTIFACTS_DESTINATION": files.place,
        "AWS_DEFAULT_REGION": files.region,
        **({"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret} if name else {}),
        **({"MLFLOW_S3_ENDPOINT_URL": files.endpoint} if files.endpoint else {}),
    }
    return replace(one, argv=(*one.argv[:at], "--default-artifact-root", "mlflow-artifacts:/"), env=env)


def _run(command: list[str], name: str, settings: dict[str, str]) -> None:
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise ServiceError(f"{name}'s tables cannot be brought up to date:\n{said}")
