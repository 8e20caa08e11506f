"""Prefect's server, as the commands talk to it: which one, and what becomes of its refusals."""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.stack import ServiceError, environment_of, running_stack
from tasks.errors import ConfigError
from tasks.workspace import home, storage_errors

Json = dict[str, Any]

PAGE = 200  # the most the server gives at once

_RETRY_LIMIT_S = 120.0
_BUSY = {408, 429, 502, 503}  # 503: "database is locked", of SQLite with several people


class NotFoundError(ConfigError):
    """The server has nothing of that name."""


def api_url() -> str:
    """Return the address of Prefect's API: PREFECT_API_URL, else the running stack of TRAINYARD_HOME.

    Raises:
        ConfigError: there is neither.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url.rstrip("/")
    if stack := running_stack():
        for name, value in environment_of(stack).items():
            os.environ.setdefault(name, value)
        return os.environ["PREFECT_API_URL"]
    raise ConfigError("no server: `yard up` starts one, or set PREFECT_API_URL")


class Api:
    """Prefect's REST API, by path. What it refuses becomes an error with its own words; while it is busy it is
    asked again.

    Args:
        client: Prefect's own, which knows about passwords and certificates.
        url: of the API.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client, self.url = client, url
        self._answered = False
        self._flows: dict[str, str] = {}

    def page(self, run_id: str) -> str:
        """Return the address of a run's page in Prefect's UI."""
        return f"{self.url.removesuffix('/api')}/runs/flow-run/{run_id}"

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Return what the server answers, None for nothing.

        Raises:
            NotFoundError: there is no such thing.
            ConfigError: the server refuses; its reason.
            ServiceError: it does not answer.
        """
        import httpx

        deadline = time.monotonic() + _RETRY_LIMIT_S
        pause = 0.2
        while True:
            try:
                answer = self._client.request(method, path, params=params or None, json=body)
            except httpx.HTTPStatusError as exc:
                if exc.response.status_code not in _BUSY or time.monotonic() > deadline:
                    raise _refusal(exc.response, self.url) from exc
            except httpx.TransportError as exc:
                if not self._answered or time.monotonic() > deadline:
                    raise ServiceError(f"no answer from {self.url} ({exc}): is the server up?") from exc
            else:
                self._answered = True
                return answer.json() if answer.content else None
            # At random, and soon rarely: SQLite refuses all but one of those who write in the same 50 ms.
            time.sleep(pause * random.uniform(0.1, 1.0))
            pause = min(2 * pause, 4.0)

    def pages(self, path: str, body: Mapping[str, Any]) -> Iterator[Json]:
        """Yield every row of a filter, page by page."""
        offset = 0
        while True:
            found: list[Json] = self.call("POST", path, {**body, "limit": PAGE, "offset": offset})
            yield from found
            if len(found) < PAGE:
                return
            offset += PAGE

    def flow_names(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return flow id -> name."""
        if unknown := sorted(set(ids) - self._flows.keys()):
            found = self.pages("/flows/filter", {"flows": {"id": {"any_": unknown}}})
            self._flows |= {flow["id"]: flow["name"] for flow in found}
        return self._flows


def _refusal(response: Any, url: str) -> Exception:
    said = response.text
    try:
        answer = response.json()
        detail = answer.get("detail") or answer.get("exception_detail") or ""
        said = detail if isinstance(detail, str) else json.dumps(detail)
    except (ValueError, AttributeError):
        pass  # a proxy's page, not Prefect's JSON
    if response.status_code == 404:
        return NotFoundError(said or "the server has no such thing")
    if response.status_code in {400, 409, 422}:
        return ConfigError(said)
    hint = ": set PREFECT_API_AUTH_STRING" if response.status_code in {401, 403} else ""
    return ServiceError(f"{url} answers {response.status_code} {said}".strip() + hint)


@contextmanager
def connect() -> Iterator[Api]:
    """Yield the server's API.

    Raises:
        ConfigError: no server is named.
        StorageError: the home cannot be written.
    """
    url = api_url()
    state = Path(os.environ.get("PREFECT_HOME", home() / "prefect"))
    with storage_errors(state):
        state.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only, and warns
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    # Prefect's own retries wait 2, 4, 8 ... s; with 20 people on SQLite that is a minute, see `Api.call`.
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True) as client,
    ):
        yield Api(client, url)
