"""The programs of `yard up`, with their settings."""

from pathlib import Path

from deployments.services.mlflow_server import BACKEND
from deployments.services.service import LOOPBACK, Announcing, Service
from gpu_pools.slurm.request import HOST as SLURM
from tasks.base.project_files import project_file
from tasks.base.servers.database import mlflow_uri
from tasks.base.servers.guard import HOSTS, ORIGINS, listed
from tasks.base.servers.password import CLIENT, SERVER, password
from tasks.base.startup import module_command
from tasks.base.workspace import home

POOL_IS_THERE = "the pool is there"
"""Printed by `deployments.apply`: from then on workers can serve."""

INBOX_SERVES = "inbox serves"
"""Printed by `deployments.inbox.serve` at its start."""

NOTICES_SERVE = "notices are sent from"
"""Printed by `deployments.notices.notice_service` at its start."""

_PREFECT_SETTINGS = {
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    # A lease in memory dies with the server: runs that live would be called crashed, and slots be lost.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Both, for logs that are followed while they are written.
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    # It would write "Late" over the sentence why a run waits.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    # Three times as many runs created a second as with one event at a time.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    # Old events, and what is left of runs that housekeeping removed; runs themselves not, or pinned ones would go.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Whatever starts the server with these settings starts it with the guard: `deployments.services.prefect_server`.
    "PREFECT_PLUGINS_ENABLED": "true",
    "PREFECT_PLUGINS_ALLOW": "trainyard",
    "PREFECT_PLUGINS_STRICT": "true",
}


def prefect_service(port: int, *, ui: bool) -> Service:
    """Return Prefect's server on the SQLite of PREFECT_HOME; without its UI for a run that brings its own.

    That one starts half a second sooner without automations, which are for who is not there to see the run's end.
    """
    words = ("server", "start", "--host", LOOPBACK, "--port", str(port))
    argv = tuple(module_command("deployments.services.prefect_server", *words))
    env = {
        **_PREFECT_SETTINGS,
        "PREFECT_UI_ENABLED": str(ui).lower(),
        "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": str(ui).lower(),
        "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
        # Of the address in the bar of the browser, whatever a tunnel made of it.
        "PREFECT_UI_API_URL": "/api",
        # Whose answers a browser shows to its page; the guard has refused all other pages before.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join([f"http://{LOOPBACK}:{port}", *listed(ORIGINS)]),
    }
    if known := password():
        env[SERVER] = env[CLIENT] = known
    return Service(f"prefect-{port}", argv, port, "/api/health", env)


def mlflow_service(port: int) -> Service:
    """Return MLflow's server on the store that runs write to, with the settings of mlflow/server.env."""
    argv = (
        *module_command("deployments.services.mlflow_server", "--host", LOOPBACK, "--port", str(port)),
        # Runs write their files themselves: with and without a server they read and write the same experiments.
        *("--default-artifact-root", str(home() / "mlflow" / "artifacts")),
    )
    settings = _settings(project_file("mlflow/server.env"))
    # What hosts and people hand to each other through the server; the files of experiments are not reached this way.
    settings["MLFLOW_ARTIFACTS_DESTINATION"] = str(home() / "mlflow" / "store")
    return Service(f"mlflow-{port}", argv, port, "/health", {**settings, **_let_in(), BACKEND: mlflow_uri()})


def _let_in() -> dict[str, str]:
    """Return MLflow's own settings for those whom the guard lets in beside this machine's own pages."""
    settings, hosts = {}, listed(HOSTS)
    if hosts:
        names = ["localhost", "127.0.0.1", *hosts]
        settings["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(name + port for name in names for port in ("", ":*"))
    # Its own pages behind a proxy; the guard has held port and name against the host before.
    own = [f"https://{host}{port}" for host in hosts for port in ("", ":*")]
    if origins := [*own, *listed(ORIGINS)]:
        settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins)
    return settings


def worker_program(name: str, env: dict[str, str]) -> Announcing:
    """Return a worker of this host.

    Killed with the stack, not asked to drain: its runs go on by themselves, and the next worker finds them.
    """
    argv = tuple(module_command("gpu_pools.worker.serve", "--name", name))
    return Announcing(f"worker-{name.replace('/', '-')}", argv, env, f"worker {name} serves", "KILL")


def inbox_program(env: dict[str, str]) -> Announcing:
    """Return what makes runs of what is dropped into the inbox, or sent by `yard upload`."""
    return Announcing("inbox", tuple(module_command("deployments.inbox.serve")), env, INBOX_SERVES)


def notices_program(env: dict[str, str]) -> Announcing:
    """Return what tells people what happens to their runs, by Prefect's automations."""
    return Announcing("notices", tuple(module_command("deployments.notices.notice_service")), env, NOTICES_SERVE)


def slurm_program(env: dict[str, str]) -> Announcing:
    """Return what hands runs to Slurm; its jobs go on without it."""
    return Announcing(SLURM, tuple(module_command("gpu_pools.slurm.serve")), env, f"{SLURM} serves")


def apply_program(env: dict[str, str]) -> Announcing:
    """Return what gives the server its pool and its queues, says so, then its deployments, and ends."""
    return Announcing("apply", tuple(module_command("deployments.apply")), env, POOL_IS_THERE)


def _settings(path: Path) -> dict[str, str]:
    """Return the NAME=VALUE lines of a file."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}
