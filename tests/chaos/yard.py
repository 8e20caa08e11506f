"""A real Prefect server and real workers on simulated devices, to be killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent.parent
RUNS = "tests.chaos.runs"
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


CLASSIFICATION = {
    "classification": "cpu.pipeline",
    "prepare_dataset": "cpu.preparation",
    "train_classifier": "cuda.training",
    "report_classifier": "cpu.inference",
}
"""The flows of the pipeline and of its stages: the queue of each."""


class Yard:
    """Start with `start`; stop with `stop`, which leaves no process."""

    def __init__(self, home: Path, port: int, *, n_gpus: int = 2, address: str = "127.0.0.1", **env: str) -> None:
        self.home, self.port, self.address = home, port, address
        self.api = f"http://{address}:{port}/api"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TRAINYARD_"))},
            "TRAINYARD_HOME": str(home),
            "TRAINYARD_LOCK_DIR": str(home / "locks"),
            "TRAINYARD_SIMULATE_GPUS": str(n_gpus),
            "TRAINYARD_SIMULATED_STATE": str(home / "gpus.json"),  # idle until a test writes it
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            "PREFECT_UI_ENABLED": "false",
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),  # for the flows of the tests
            "TRAINYARD_FLOWS": "tests.chaos.runs.*",
            **env,
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(base_url=self.api, timeout=30)
        self._deployments: dict[str, str] = {}
        (home / "prefect").mkdir(parents=True, exist_ok=True)

    def start_server(self) -> None:
        """Start the server and wait until it answers."""
        argv = [str(Path(sys.executable).parent / "prefect"), "server", "start", "--host", self.address]
        with (self.home / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [*argv, "--port", str(self.port)], env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self.until(self._answers, 240, "the server answers")

    def _answers(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def start_worker(self, name: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker; it says in worker-<name>.log when it serves."""
        with (self.home / f"worker-{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                [sys.executable, "-m", "gpu_pools.worker.serve", "--name", name],
                env={**self.env, **env},
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        return self.workers[name]

    def serves(self, name: str) -> bool:
        """Return whether a worker has said that it serves."""
        assert self.workers[name].poll() is None, self.tails()
        return "serves" in (self.home / f"worker-{name}.log").read_text()

    def deploy(
        self, name: str, entrypoint: str | None, queue: str, *, pull_steps: Any = None, **variables: Any
    ) -> None:
        """Make a deployment of a flow as `prefect deploy` does."""
        flow_id = self.post("/flows/", {"name": name})["id"]
        body = {
            "name": "yard",
            "flow_id": flow_id,
            "entrypoint": entrypoint,
            "pull_steps": pull_steps,
            "work_pool_name": "gpu",
            "work_queue_name": queue,
            "job_variables": variables,
            "enforce_parameter_schema": False,
        }
        self._deployments[name] = self.post("/deployments/", body)["id"]

    def deployment(self, name: str) -> str:
        """Return the number of a deployment that was made here."""
        return self._deployments[name]

    def deploy_runs(self) -> None:
        """Make the deployments of runs.py."""
        for name in ("hold", "steps", "fail"):
            self.deploy(name, f"{RUNS}.{name}", "cuda.training")

    def deploy_classification(self) -> None:
        """Make the deployments of the classification pipeline and of its stages."""
        for name, queue in CLASSIFICATION.items():
            self.deploy(name, f"flows.classification.{name}", queue)

    def submit(self, name: str, queue: str, parameters: Mapping[str, Any], **variables: Any) -> str:
        """Create a run and return its id."""
        body = {"parameters": dict(parameters), "work_queue_name": queue, "job_variables": variables}
        body["state"] = {"type": "SCHEDULED"}
        return str(self.post(f"/deployments/{self._deployments[name]}/create_flow_run", body)["id"])

    def submit_many(self, name: str, bodies: Sequence[Mapping[str, Any]]) -> list[str]:
        """Create runs of a deployment in one call and return their ids in the same order."""
        state = {"type": "SCHEDULED"}
        path = f"/deployments/{self._deployments[name]}/create_flow_run/bulk"
        answer = self.post(path, [{"state": state, **body} for body in bodies])
        return [str(result["flow_run_id"]) for result in answer["results"]]

    def hold(self, queue: str, seconds: float = 1.0, *, child: bool = False, **variables: Any) -> str:
        """Create a run that holds its slot."""
        return self.submit("hold", queue, {"folder": str(self.home), "seconds": seconds, "child": child}, **variables)

    def post(self, path: str, body: Any) -> Any:
        """Ask the server, again where it is busy or away."""
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: Any) -> Any:
        """Ask the server, again where it is busy or away."""
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self.http.request(method, path, json=body)
                if answer.status_code != 503:
                    answer.raise_for_status()
                    return answer.json() if answer.content else None
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def set_queue(self, name: str, **values: Any) -> None:
        """Change a queue as Prefect's page does."""
        self.ask("PATCH", f"/work_pools/gpu/queues/{name}", values)

    def state(self, run_id: str) -> dict[str, Any]:
        """Return the state of a run."""
        (found,) = self.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return dict(found["state"])

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the states of all runs."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self.post("/flow_runs/filter", {"limit": 200, "offset": len(found)})
            found |= {row["id"]: row["state"] for row in page}
            if len(page) < 200:
                return found

    def told(self, run_id: str, kind: str = "flow-run") -> list[str]:
        """Return the states that watchers of events have been told of a run, or of its steps, in their order."""
        related = {"related": {"id": [f"prefect.flow-run.{run_id}"]}}
        own = {"resource": {"id": [f"prefect.flow-run.{run_id}"]}} if kind == "flow-run" else related
        body = {"filter": {"event": {"prefix": [f"prefect.{kind}."]}, "order": "ASC", **own}, "limit": 50}
        names = [event["event"].rpartition(".")[2] for event in self.post("/events/filter", body)["events"]]
        return [name for name in names if name != "heartbeat"]

    def cancel(self, run_id: str) -> None:
        """Do what the Cancel button of Prefect's page does."""
        self.post(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def until(self, true: Any, seconds: float, what: str) -> float:
        """Wait until something is so; return how long that took, in seconds."""
        begun = time.monotonic()
        while not true():
            assert time.monotonic() - begun < seconds, f"not within {seconds} s: {what}\n{self.tails()}"
            time.sleep(0.1)
        return time.monotonic() - begun

    def is_(self, run_id: str, *types: str) -> Any:
        """Return a function that tells whether a run is in one of these states."""
        return lambda: self.state(run_id)["type"] in types

    def spans(self) -> list[dict[str, Any]]:
        """Return what the processes of runs wrote down, in the order of their beginnings."""
        found = [json.loads(path.read_text()) for path in self.home.glob("spans/*.json")]
        return sorted(found, key=lambda span: span["begin"])

    def of(self, run_id: str) -> list[dict[str, Any]]:
        """Return the spans of a run, one for each of its processes."""
        return [span for span in self.spans() if span["run"] == run_id]

    def begun(self, run_id: str, times: int = 1) -> Any:
        """Return a function that tells whether a run has had so many processes."""
        return lambda: len(self.of(run_id)) >= times

    def pid(self, run_id: str) -> int:
        """Return the newest process of a run."""
        return int(self.of(run_id)[-1]["pid"])

    def marked(self, run_id: str) -> list[int]:
        """Return the living processes that a run has started with a command of their own."""
        mark = f"TRAINYARD_RUN_ID={run_id}".encode()
        return [int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit() and mark in _environ(e).split(b"\0")]

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        """Kill a server or a worker, as a crash does."""
        assert process is not None
        process.kill()
        process.wait()

    def left(self) -> list[int]:
        """Return the processes of runs that are alive."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and f"TRAINYARD_HOME={self.home}".encode() in _environ(entry).split(b"\0"):
                found.append(int(entry.name))
        known = [p.pid for p in [*self.workers.values(), self.server] if p is not None]
        return [pid for pid in found if pid not in known]

    def tails(self) -> str:
        """Return the ends of the logs."""
        outputs = sorted(self.home.glob("**/runs/*/output.log"), key=lambda path: path.stat().st_mtime)[-3:]
        logs = [*sorted(self.home.glob("*.log")), *outputs]
        return "\n".join(f"--- {log.parent.name}/{log.name}\n{log.read_text()[-3000:]}" for log in logs)

    def stop(self) -> None:
        """Kill everything that is left, runs included."""
        for process in [*self.workers.values(), self.server]:
            if process is not None:
                process.kill()
                process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        self.http.close()


def _environ(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""


@contextmanager
def yard(home: Path, port: int, **options: Any) -> Iterator[Yard]:
    """Run a yard with one worker, called `one`, for the block."""
    made = Yard(home, port, **options)
    try:
        made.start_server()
        made.start_worker("one")
        made.until(lambda: made.serves("one"), 240, "the worker serves")
        made.deploy_runs()
        yield made
    finally:
        made.stop()
