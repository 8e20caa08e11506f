"""Short questions to Prefect's server by plain HTTP: importing its client takes longer than all of the answers."""

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from deployments.services import ServiceError
from gpu_pools.queues import POOL

_WAITING = ["SCHEDULED"]
_RUNNING = ["PENDING", "RUNNING", "CANCELLING"]

Request = tuple[str, str, Any]


@dataclass(frozen=True, slots=True)
class QueueCount:
    """A queue of the pool: its limit as set in Prefect, and how many of its runs are due, and under way."""

    queue: str
    limit: int | None
    paused: bool
    waiting: int
    running: int


def ask(url: str, *requests: Request) -> list[Any]:
    """Return the answers to requests of (method, path, body), over one connection.

    Raises:
        ServiceError: the server does not answer, or refuses.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    answers = []
    try:
        with closing(connection):
            for method, path, body in requests:
                content = None if body is None else json.dumps(body)
                connection.request(method, parts.path + path, content, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
                if answer.status != http.client.OK:
                    raise ServiceError(f"{url}{path} answers {answer.status}: {text[:300]}")
                answers.append(_parsed(text))
    except (OSError, http.client.HTTPException) as exc:
        raise ServiceError(f"no answer from {url} ({exc}): is the server up?") from exc
    return answers


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # MLflow's version is no JSON


def queue_counts(api: str) -> list[QueueCount]:
    """Return the queues of the pool, by name; empty before there is a pool.

    Args:
        api: address of Prefect's API.

    Raises:
        ServiceError: it does not answer.
    """
    (pools,) = ask(api, ("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}}))
    if not pools:
        return []
    (queues,) = ask(api, ("POST", f"/work_pools/{POOL}/queues/filter", {"limit": 200}))
    # Runs that a schedule has made for later do not wait yet.
    due = {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    counts: list[int] = []
    for types, when in ((_WAITING, due), (_RUNNING, {})):
        body = _in_pool({"state": {"type": {"any_": types}}, **when})
        counts += ask(api, *(("POST", "/flow_runs/count", body(queue["name"])) for queue in queues))
    shown = [
        QueueCount(queue["name"], queue["concurrency_limit"], queue["is_paused"], waiting, running)
        for queue, waiting, running in zip(queues, counts[: len(queues)], counts[len(queues) :], strict=True)
    ]
    return sorted(shown, key=lambda count: count.queue)


def _in_pool(flow_runs: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    def body(queue: str) -> dict[str, Any]:
        pool = {"work_pools": {"name": {"any_": [POOL]}}, "work_pool_queues": {"name": {"any_": [queue]}}}
        return {"flow_runs": flow_runs, **pool}

    return body


def online_workers(api: str) -> list[str]:
    """Return the names of the workers that Prefect has heard of lately.

    Raises:
        ServiceError: it does not answer.
    """
    (pools,) = ask(api, ("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}}))
    if not pools:
        return []
    (found,) = ask(api, ("POST", f"/work_pools/{POOL}/workers/filter", {}))
    return sorted(worker["name"] for worker in found if worker["status"] == "ONLINE")
