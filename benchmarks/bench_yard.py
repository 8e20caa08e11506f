"""A yard of its own for a benchmark: the real stack on simulated GPUs, in a folder that is removed afterwards."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent


class BenchYard:
    """A running stack, and what the benchmarks ask of it."""

    def __init__(self, home: Path, api: str, database: str, env: dict[str, str]) -> None:
        self.home, self.api, self.database, self.env = home, api, database, env
        self.notes = home / "notes"
        self.notes.mkdir()
        self.http = httpx.Client(base_url=api, timeout=120, limits=httpx.Limits(max_connections=200))
        self.deployment = self._deploy()

    def _deploy(self) -> str:
        flow = self.post("/flows/", {"name": "sleeper"})["id"]
        body = {
            "name": "bench",
            "flow_id": flow,
            "entrypoint": "benchmarks.sleeper.sleeper",
            "work_pool_name": "gpu",
            "work_queue_name": "cuda:0.training",
            "enforce_parameter_schema": False,
        }
        return str(self.post("/deployments/", body)["id"])

    def post(self, path: str, body: Any) -> Any:
        """Ask the server, again where it is busy."""
        while True:
            answer = self.http.post(path, json=body)
            if answer.status_code != 503:
                answer.raise_for_status()
                return answer.json() if answer.content else None
            time.sleep(0.05)

    def order(self, seconds: float, queue: str = "cuda:0.training") -> dict[str, Any]:
        """Return the body of a run that holds its slot for some seconds."""
        parameters = {"folder": str(self.notes), "seconds": seconds}
        return {"parameters": parameters, "work_queue_name": queue, "state": {"type": "SCHEDULED"}}

    def submit(self, seconds: float, queue: str = "cuda:0.training") -> str:
        """Create a run; return its id."""
        body = self.order(seconds, queue)
        return str(self.post(f"/deployments/{self.deployment}/create_flow_run", body)["id"])

    def note(self, run: str) -> dict[str, float] | None:
        """Return when a run's first and last lines ran, Unix seconds; None while it has not ended."""
        path = self.notes / f"{run}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def wait(self, runs: list[str], limit_s: float = 1800) -> list[dict[str, float]]:
        """Return the notes of runs once all have ended."""
        deadline = time.monotonic() + limit_s
        while not all((self.notes / f"{run}.json").is_file() for run in runs):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {len(runs)} runs have ended within {limit_s} s; see {self.home}")
            time.sleep(0.2)
        return [note for run in runs if (note := self.note(run))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def bench_yard(n_gpus: int = 1, **env: str) -> Iterator[BenchYard]:
    """Run the stack for the block."""
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # the user of the database gets in
        home = Path(folder)
        own = {
            "TRAINYARD_HOME": folder,
            "TRAINYARD_LOCK_DIR": str(home / "locks"),
            "TRAINYARD_SIMULATE_GPUS": str(n_gpus),
            "TRAINYARD_FLOWS": "benchmarks.sleeper.sleeper",
            "PYTHONPATH": str(ROOT),
            **env,
        }
        own = {**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, **own}
        yard = str(Path(sys.executable).parent / "yard")
        ports = ["--prefect-port", str(_free_port()), "--mlflow-port", str(_free_port())]
        subprocess.run([yard, "up", "--detach", *ports], env=own, check=True, stdout=sys.stderr)
        try:
            record = json.loads((home / "services.json").read_text())
            yield BenchYard(home, f"{record['prefect']}/api", record["database"], own)
        finally:
            subprocess.run([yard, "down", "--now"], env=own, check=True, stdout=sys.stderr)
