"""A client of Prefect's server for the commands."""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from deployments.stack.stack import ServiceError, be_let_in, environment_of, running_stack
from gpu_pools.prefect_pages import read_pages
from tasks.base.errors import ConfigError
from tasks.base.servers.tls import PREFECT, trusted

Json = dict[str, Any]

NO_SERVER = "no server: `yard up` starts one, or set PREFECT_API_URL"

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
        be_let_in(url)
        return url.rstrip("/")
    if stack := running_stack():
        for name, value in environment_of(stack).items():
            os.environ.setdefault(name, value)
        return os.environ["PREFECT_API_URL"]
    raise ConfigError(NO_SERVER)


class Api:
    """Prefect's REST API, by path. What it refuses becomes an error with its own words; while it is busy it is
    asked again.

    Args:
        client: raises for what the server refuses.
        url: of the API.
    """

    known_by = "server"
    """The runs that it tells of."""

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
        return read_pages(lambda page: self.call("POST", path, page), body)

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
    hint = ": set PREFECT_API_AUTH_STRING to the yard's password" if response.status_code in {401, 403} else ""
    return ServiceError(f"{url} answers {response.status_code} {said}".strip() + hint)


@contextmanager
def connect() -> Iterator[Api]:
    """Yield the server's API, by plain HTTP: importing Prefect's client takes longer than all of the answers.

    Passwords and certificates are taken from Prefect's own variables: PREFECT_API_AUTH_STRING, PREFECT_API_KEY,
    PREFECT_API_SSL_CERT_FILE, PREFECT_API_TLS_INSECURE_SKIP_VERIFY, PREFECT_CLIENT_CUSTOM_HEADERS.

    Raises:
        ConfigError: no server is named.
    """
    url = api_url()
    import httpx

    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    with httpx.Client(
        base_url=url,
        headers=_headers(),
        auth=(user, password) if user else None,
        verify=trusted(PREFECT),
        timeout=60,
        event_hooks={"response": [_check]},
    ) as client:
        yield Api(client, url)


def _headers() -> dict[str, str]:
    headers: dict[str, str] = json.loads(os.environ.get("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}")
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _check(response: Any) -> None:
    if response.is_error:
        response.read()  # for the reason in it
        response.raise_for_status()
