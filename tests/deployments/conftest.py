"""One real Prefect server for the commands that talk to one, with pool, queues and deployments; no worker.

States, logs and artifacts that a worker or a run would send are sent by the tests through the same API.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.api import Api
from deployments.stack.stack import free_port, mlflow_service, prefect_service, running
from gpu_pools.project_flows import full_names

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
# The other files start services, which takes minutes in all.
WITHOUT_SERVERS = {
    "cli/test_cli.py",
    "cli/test_flow_help.py",
    "lab/test_config.py",
    "lab/test_files.py",
    "machine/test_doctor.py",
    "machine/test_kernels.py",
    "notices/test_messages.py",
    "notices/test_notices_doc.py",
    "notices/test_receipts.py",
    "notices/test_run_notices.py",
    "notices/test_sending.py",
    "runs/test_flow_parameters.py",
    "runs/test_local.py",
    "runs/test_sync.py",
    "services/test_guard.py",
    "services/test_old_names.py",
    "stack/test_background.py",
    "test_kubernetes.py",
    "sweeps/test_listing.py",
    "sweeps/test_record.py",
    "sweeps/test_results.py",
    "sweeps/test_space.py",
    "sweeps/test_study.py",
    "sweeps/test_sweeping.py",
    "sweeps/test_sweeps_doc.py",
    "test_trial.py",
    "watching/test_files.py",
    "watching/test_shared_answers.py",
    "watching/test_top.py",
}


@pytest.hookimpl(tryfirst=True)  # before the marks are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-yard` what starts services."""
    for item in items:
        below = item.path.is_relative_to(HERE)
        if below and item.path.relative_to(HERE).as_posix() not in WITHOUT_SERVERS:
            item.add_marker(pytest.mark.yard)


@dataclass
class Yard:
    """The server, and what a worker or a run would tell it."""

    api: Api
    home: Path

    def deployment(self, flow: str) -> str:
        return str(self.api.call("GET", f"/deployments/name/{full_names(flow)[0]}")["id"])

    def create(self, flow: str, **body: Any) -> dict[str, Any]:
        return dict(self.api.call("POST", f"/deployments/{self.deployment(flow)}/create_flow_run", body))

    def child(self, parent: str, flow: str, **body: Any) -> dict[str, Any]:
        task = {"name": flow, "task_key": flow, "dynamic_key": flow, "flow_run_id": parent}
        return self.create(flow, parent_task_run_id=self.api.call("POST", "/task_runs/", task)["id"], **body)

    def state(self, run_id: str, kind: str, name: str | None = None, message: str | None = None) -> None:
        state = {"type": kind, "name": name or kind.capitalize(), "message": message}
        self.api.call("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})

    def log(self, run_id: str, *lines: tuple[str, str]) -> None:
        rows = [
            {"name": "prefect.flow_runs", "level": 20, "message": text, "timestamp": at, "flow_run_id": run_id}
            for at, text in lines
        ]
        for start in range(0, len(rows), 500):
            self.api.call("POST", "/logs/", rows[start : start + 500])

    def artifact(self, run_id: str, kind: str, key: str, data: Any) -> str:
        body = {"key": key, "type": kind, "data": data, "flow_run_id": run_id}
        return str(self.api.call("POST", "/artifacts/", body)["id"])

    def epochs(self, run_id: str, rows: list[dict[str, Any]], percent: float) -> None:
        self.artifact(run_id, "progress", "training-progress", percent)
        self.artifact(run_id, "table", "training-epochs", json.dumps([{"epoch": row["epoch"]} for row in rows]))
        last = [{"figure": name, "value": value} for name, value in rows[-1].items()]
        self.artifact(run_id, "table", "training-last", json.dumps(last))

    def read(self, run_id: str) -> dict[str, Any]:
        return dict(self.api.call("GET", f"/flow_runs/{run_id}"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the API of a server as `yard up` leaves it, on a host with two GPUs; a queue of another host."""
    home = tmp_path_factory.mktemp("server")
    with server_environment(home) as patch:
        patch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
        patch.setenv("PREFECT_SERVER_METRICS_ENABLED", "true")  # docs/services.md shows where they are
        for name in ("LATE_RUNS", "SCHEDULER", "TRIGGERS", "EVENT_PERSISTER"):  # would work beside the tests
            patch.setenv(f"PREFECT_SERVER_SERVICES_{name}_ENABLED", "false")
        (home / "prefect").mkdir()
        service = prefect_service(free_port(), ui=False)
        url = f"{service.url}/api"
        command = [sys.executable, "-m", "deployments.apply"]
        # Beside the server's start: importing the flows takes as long.
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PREFECT_API_URL": url}) as applying:
            try:
                with running(service), connected(url) as api:
                    assert applying.wait(timeout=200) == 0
                    queue = {"name": "boxb.cuda:1.training", "concurrency_limit": 1}
                    api.call("POST", "/work_pools/gpu/queues", queue)
                    yield url
            finally:
                applying.kill()


@pytest.fixture(scope="module")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for a Prefect server of a file's own."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "prefect").mkdir()
    return folder


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(tmp_path_factory.mktemp("tracking")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with running(mlflow_service(free_port())) as service:
            yield service.url


@pytest.fixture(scope="session")
def champion(tracking: str) -> str:
    """The id of an MLflow run whose model `classification` is champion."""
    from tasks.tracking.mlflow_api import client

    store = client(tracking)
    run = store.create_run(store.create_experiment("classification"))
    run_id = str(run.info.run_id)
    store.log_metric(run_id, "loss/val", 0.5, step=1)
    store.log_text(run_id, "{}", "config/config.json")
    store.create_registered_model("classification")
    store.create_model_version("classification", f"{run.info.artifact_uri}/config", run_id)
    store.set_registered_model_alias("classification", "champion", "1")
    return run_id


@contextmanager
def server_environment(home: Path) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a server of a home and of nothing else, for the block, which may set more."""
    with pytest.MonkeyPatch.context() as patch:
        other_server = [name for name in os.environ if name.startswith("PREFECT_SERVER_SERVICES_")]
        for name in ("CUDA_VISIBLE_DEVICES", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", *other_server):
            patch.delenv(name, raising=False)
        patch.setenv("TRAINYARD_HOME", str(home))
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        yield patch


@contextmanager
def connected(url: str) -> Iterator[Api]:
    """An API for the block, whatever the environment says."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(url) as client:
        yield Api(client, url)


@pytest.fixture
def yard(server: str, tmp_path: Path) -> Iterator[Yard]:
    """The server, which the commands find; a home of its own, and an environment that is as before at the end."""
    before = dict(os.environ)
    os.environ |= {
        "PREFECT_API_URL": server,
        "TRAINYARD_HOME": str(tmp_path / "home"),
        "TRAINYARD_LOCK_DIR": str(tmp_path / "locks"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    try:
        with connected(server) as api:
            yield Yard(api, tmp_path / "home")
    finally:
        os.environ.clear()
        os.environ.update(before)
