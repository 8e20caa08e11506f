"""Asks Prefect's server by plain HTTP, because its client takes long to import."""

import http.client
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from deployments.services.service import ServiceError
from gpu_pools.placement.queues import POOL, queue_or_none
from gpu_pools.prefect_pages import read_pages
from tasks.base.servers.mlflow_account import account_headers
from tasks.base.servers.password import headers
from tasks.base.servers.tls import MLFLOW, PREFECT, trusted

_WAITING = ["SCHEDULED"]
_RUNNING = ["PENDING", "RUNNING", "CANCELLING"]
# As Prefect's own watch over workers has them; and so much later it has looked.
_BEATS, _BEAT_S, _SILENCE = 3, 30, timedelta(seconds=30)

Request = tuple[str, str, Any]
Ask = Callable[[str, str, Any], Any]
"""(method, path, body) -> the answer."""


@dataclass(frozen=True, slots=True)
class QueueCount:
    """A queue of the pool: its limit as set in Prefect, and how many of its runs are due, and under way."""

    queue: str
    limit: int | None
    paused: bool
    waiting: int
    running: int

    @property
    def idle(self) -> bool:
        """Whether it is a host's own queue, which stands beside the one without its name, and nobody has used it."""
        used = self.waiting or self.running or self.paused or self.limit is not None
        queue = queue_or_none(self.queue)
        return not used and queue is not None and queue.host is not None


def ask(url: str, *requests: Request) -> list[Any]:
    """Return the answers to requests of (method, path, body), over one connection.

    Raises:
        ServiceError: the server does not answer, or refuses.
    """
    with asking(url) as call:
        return [call(*request) for request in requests]


@contextmanager
def asking(url: str) -> Iterator[Ask]:
    """Yield how to ask a server, over one connection.

    Raises:
        ServiceError: the server does not answer, or refuses.
    """
    parts = urlsplit(url)
    connection = _connection(parts.scheme, parts.hostname or "", parts.port)

    def call(method: str, path: str, body: Any) -> Any:
        content, place = None if body is None else json.dumps(body), parts.path + path
        known = headers(url + path) if place.startswith("/api/") else account_headers(url)  # Prefect's or MLflow's
        connection.request(method, place, content, {"Content-Type": "application/json", **known})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        if not http.client.OK <= answer.status < http.client.MULTIPLE_CHOICES:
            raise ServiceError(f"{url}{path} answers {answer.status}: {text[:300]}")
        return _parsed(text)

    try:
        with closing(connection):
            yield call
    except (OSError, http.client.HTTPException) as exc:
        raise ServiceError(f"no answer from {url} ({exc}): is the server up?") from exc


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        whose = PREFECT if os.environ.get(PREFECT.file) else MLFLOW
        return http.client.HTTPSConnection(host, port, timeout=10, context=trusted(whose))
    return http.client.HTTPConnection(host, port, timeout=10)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # MLflow's version is no JSON


def queue_counts(call: Ask) -> list[QueueCount]:
    """Return the queues of the pool, by name, without those that mean nothing: a host's own, never used; empty before
    there is a pool.

    Args:
        call: asks Prefect's API.

    Raises:
        ServiceError: it does not answer.
    """
    pools = call("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})
    if not pools:
        return []
    queues = list(paged(call, f"/work_pools/{POOL}/queues/filter", {}))
    # Runs that a schedule has made for later do not wait yet.
    due = {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    counts: list[int] = []
    for types, when in ((_WAITING, due), (_RUNNING, {})):
        body = _in_pool({"state": {"type": {"any_": types}}, **when})
        counts += [call("POST", "/flow_runs/count", body(queue["name"])) for queue in queues]
    shown = [
        QueueCount(queue["name"], queue["concurrency_limit"], queue["is_paused"], waiting, running)
        for queue, waiting, running in zip(queues, counts[: len(queues)], counts[len(queues) :], strict=True)
    ]
    return sorted((count for count in shown if not count.idle), key=lambda count: count.queue)


def _in_pool(flow_runs: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    def body(queue: str) -> dict[str, Any]:
        pool = {"work_pools": {"name": {"any_": [POOL]}}, "work_pool_queues": {"name": {"any_": [queue]}}}
        return {"flow_runs": flow_runs, **pool}

    return body


def paged(call: Ask, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield every row of a filter, page by page."""
    return read_pages(lambda page: call("POST", path, page), body)


def online_workers(call: Ask) -> list[str]:
    """Return the names of the workers that Prefect has heard of lately.

    Raises:
        ServiceError: it does not answer.
    """
    silent = [name for name, _ in silent_workers(call, datetime.now(UTC) - _SILENCE, _BEATS)]
    return sorted(worker["name"] for worker in _online(call) if worker["name"] not in silent)


def silent_workers(call: Ask, before: datetime, n_beats: int) -> list[tuple[str, datetime]]:
    """Return (name, last heard of) of the workers that Prefect counts as online though they are silent.

    Args:
        call: asks Prefect's API.
        before: the time at which it should have seen that.
        n_beats: signs of life that a worker may miss.
    """
    silent = []
    for worker in _online(call):
        heard = datetime.fromisoformat(worker["last_heartbeat_time"])
        if heard + timedelta(seconds=n_beats * (worker["heartbeat_interval_seconds"] or _BEAT_S)) < before:
            silent.append((worker["name"], heard))
    return silent


def _online(call: Ask) -> list[Any]:
    if not call("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}}):
        return []
    workers = call("POST", f"/work_pools/{POOL}/workers/filter", {})
    return [worker for worker in workers if worker["status"] == "ONLINE" and worker["last_heartbeat_time"]]
