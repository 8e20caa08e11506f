"""A stand-in for Prefect's server: real HTTP, its runs a dictionary, and it can be away."""

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from gpu_pools.prefect_client import PoolClient

Row = dict[str, Any]
_TIME = "2026-01-01T00:00:00Z"


class FakePrefect:
    """What the worker asks of Prefect, answered from memory; a test changes the attributes as it likes.

    Attributes:
        runs: by id, as the API has them.
        steps: task runs.
        deployments: by id.
        queues: of the pool.
        workers: of the pool, as the API has them.
        variables: no two with one name.
        away: every request is answered with 500, which Prefect's client hands on at once.
        n_busy: so many times labels are not written, because something else writes.
        refused: ids of runs that get no new state unless it is forced.
        requests: (method, path) of all that were asked.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Row] = {}
        self.steps: list[Row] = []
        self.deployments: dict[str, Row] = {}
        self.pool: Row = {"name": "gpu", "concurrency_limit": None, "is_paused": False}
        self.queues: list[Row] = []
        self.workers: list[Row] = []
        self.variables: list[Row] = []
        self.away = False
        self.n_busy = 0
        self.refused: set[str] = set()
        self.requests: list[tuple[str, str]] = []

    def add_run(self, state: str = "RUNNING", queue: str = "cpu.training", **fields: Any) -> str:
        """Add a run that is due since long; return its id."""
        run_id = str(uuid.uuid4())
        self.runs[run_id] = {
            "id": run_id,
            "flow_id": str(uuid.uuid4()),
            "name": "run",
            "created": _TIME,
            "expected_start_time": _TIME,
            "work_queue_name": queue,
            "deployment_id": None,
            "job_variables": None,
            "infrastructure_pid": None,
            "start_time": None,
            "end_time": None,
            "parameters": {},
            "auto_scheduled": False,
            "created_by": None,
            "parent_flow_run_id": None,
            "tags": [],
            "labels": {},
            "state": {"id": str(uuid.uuid4()), "type": state, "name": state.capitalize(), "message": None},
            **fields,
        }
        return run_id

    def add_deployment(self, entrypoint: str, **job_variables: Any) -> str:
        """Add a deployment; return its id."""
        found = {"id": str(uuid.uuid4()), "flow_id": str(uuid.uuid4()), "name": "d", "entrypoint": entrypoint}
        self.deployments[found["id"]] = {**found, "job_variables": job_variables}
        return found["id"]

    def state(self, run_id: str) -> tuple[str, str, str]:
        """Return type, name and message of a run's state."""
        state = self.runs[run_id]["state"]
        return state["type"], state["name"], state["message"] or ""

    def set_state(self, run_id: str, state: str) -> None:
        """Give a run a state, as a person or its own process does."""
        self.runs[run_id]["state"] |= {"type": state, "name": state.capitalize(), "message": None}

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and content of the answer to a request."""
        self.requests.append((method, path))
        if self.away:
            return 500, {"detail": "away"}
        match method, path.strip("/").split("/"):
            case "POST", ["flow_runs", "filter"]:
                return 200, _page([run for run in self.runs.values() if _fits(run, body["flow_runs"])], body)
            case "POST", ["task_runs", "filter"]:
                parents, types = body["flow_runs"]["id"]["any_"], body["task_runs"]["state"]["type"]["any_"]
                fits = [s for s in self.steps if s["flow_run_id"] in parents and s["state"]["type"] in types]
                return 200, _page(fits, body)
            case "POST", ["work_pools", _, "queues", "filter"]:
                return 200, _page(self.queues, body)
            case "POST", ["work_pools", _, "workers", "filter"]:
                return 200, self.workers
            case "POST", ["variables", "filter"]:
                prefix = body["variables"]["name"]["like_"]
                return 200, _page([row for row in self.variables if prefix in row["name"]], body)
            case "POST", ["variables"]:
                self.variables.append({"id": str(uuid.uuid4()), "created": _TIME, **body})
                return 201, self.variables[-1]
            case "GET", ["work_pools", _]:
                return 200, self.pool
            case "POST", ["task_runs"]:
                self.steps.append({"id": str(uuid.uuid4()), **body})
                return 201, self.steps[-1]
            case "GET", ["deployments", "name", flow, _]:
                found = [row for row in self.deployments.values() if row["entrypoint"].endswith(f".{flow}")]
                return (200, found[0]) if found else (404, {"detail": "not found"})
            case "POST", ["deployments", one, "create_flow_run"]:
                return 201, self.runs[self._create(one, body)]
            case _, [("flow_runs" | "task_runs" | "deployments") as kind, one, *rest]:
                return self._on_one(method, kind, one, rest, body)
        return 200, {}

    def _create(self, deployment: str, body: Any) -> str:
        parents = {step["id"]: step["flow_run_id"] for step in self.steps}
        own = {name: body[name] for name in ("name", "parameters", "job_variables")}
        parent = parents.get(body["parent_task_run_id"])
        return self.add_run(
            "SCHEDULED", body["work_queue_name"], deployment_id=deployment, parent_flow_run_id=parent, **own
        )

    def _on_one(self, method: str, kind: str, one: str, rest: list[str], body: Any) -> tuple[int, Any]:
        rows = {"flow_runs": self.runs, "task_runs": {s["id"]: s for s in self.steps}, "deployments": self.deployments}
        row = rows[kind].get(one)
        if row is None:
            return 404, {"detail": "not found"}
        if rest == ["set_state"]:
            if not body.get("force") and (one in self.refused or _is_sent_twice(row["state"], body["state"])):
                return 200, {"status": "REJECT", "state": row["state"], "details": {"type": "reject_details"}}
            row["state"] = {**body["state"], "id": str(uuid.uuid4()), "timestamp": _TIME}
            return 201, {"status": "ACCEPT", "state": row["state"], "details": {"type": "accept_details"}}
        if rest == ["labels"]:
            if self.n_busy:
                self.n_busy -= 1
                return 503, {"exception_message": "Service Unavailable"}
            row["labels"] |= body
        elif method == "PATCH":
            row |= body
        return 200, row


def _is_sent_twice(before: Row, wanted: Row) -> bool:
    sent = [(state.get("state_details") or {}).get("transition_id") for state in (before, wanted)]
    return sent[0] is not None and sent[0] == sent[1]


def _fits(run: Row, wanted: Mapping[str, Any]) -> bool:
    due = wanted.get("expected_start_time", {})
    return all(
        (
            run["id"] in wanted.get("id", {}).get("any_", [run["id"]]),
            run["state"]["type"] in wanted.get("state", {}).get("type", {}).get("any_", [run["state"]["type"]]),
            run["parent_flow_run_id"] in wanted.get("parent_flow_run_id", {}).get("any_", [run["parent_flow_run_id"]]),
            run["work_queue_name"] is None or not wanted.get("work_queue_name", {}).get("is_null_"),
            due.get("after_", "") <= run["expected_start_time"] <= due.get("before_", "9"),
        )
    )


def _page(rows: list[Row], body: Mapping[str, Any]) -> list[Row]:
    start = body.get("offset", 0)
    return rows[start : start + body.get("limit", 200)]


def _handler(prefect: FakePrefect) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and content in one packet, else the kernel waits 40 ms between the two

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0].removeprefix("/api")
            status, answer = prefect.answer(self.command, path, json.loads(content or b"null"))
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _answer

    return Handler


@contextmanager
def pool_client() -> Iterator[PoolClient]:
    """Yield a client of the server that Prefect's settings name; its connections are closed after the block."""
    client = PoolClient()
    try:
        yield client
    finally:
        client._client._client.close()


@contextmanager
def fake_prefect() -> Iterator[FakePrefect]:
    """Serve a stand-in for the block, in which Prefect's settings name it."""
    prefect = FakePrefect()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(prefect))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    settings: dict[Any, Any] = {
        PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api",
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    try:
        with temporary_settings(settings):
            yield prefect
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
