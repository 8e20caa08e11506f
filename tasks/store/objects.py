"""Keeps bytes under names in MLflow's artifact store, by plain HTTP."""

import copy
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import quote

import httpx

from tasks.base.errors import ConfigError, StorageError, TransferError
from tasks.base.servers.mlflow_account import account_headers
from tasks.base.servers.tls import MLFLOW, trusted

ROOT = "trainyard"
"""Folder of the artifact store in which all of this lies, beside those of MLflow's experiments."""

ADDRESS = "MLFLOW_TRACKING_URI"

_API = "/api/2.0/mlflow-artifacts/artifacts"
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SERVES_NONE = "--no-serve-artifacts"  # MLflow says so with 503
_MAX_CONNECTIONS = 8


class Objects:
    """The part of an artifact store that belongs to Trainyard; may be used by several threads.

    Args:
        url: of MLflow's server; who asks, and whose certificates count, say MLflow's own variables.
        patience_s: how long one that does not answer is asked again.
    """

    def __init__(self, url: str, *, patience_s: float = 60.0) -> None:
        self.url, self._patience_s = url.rstrip("/"), patience_s
        self._closed, self._root = threading.Event(), ROOT
        self._client = httpx.Client(
            headers=account_headers(url),
            timeout=_TIMEOUT,
            verify=trusted(MLFLOW) if url.startswith("https:") else False,
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
        )

    @classmethod
    def of_environment(cls, *, patience_s: float = 60.0) -> Self:
        """Return the store behind MLFLOW_TRACKING_URI.

        Raises:
            ConfigError: that is no server's address.
        """
        url = os.environ.get(ADDRESS, "")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"found {ADDRESS}={url!r}, need the address of an MLflow server to hand files over")
        return cls(url, patience_s=patience_s)

    def below(self, folder: str) -> Self:
        """Return a folder of the store as a store of its own, on the same connections."""
        found = copy.copy(self)
        found._root = f"{self._root}/{folder}"
        return found

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; whoever waits for an answer in another thread stops waiting."""
        self._closed.set()
        self._client.close()

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes under a name; those that were there are replaced.

        Raises:
            TransferError: MLflow does not answer, or refuses.
        """
        self._ask("PUT", self._path(name), content=data)

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name, None for nothing.

        Raises:
            TransferError: MLflow does not answer, or refuses.
        """
        answer = self._ask("GET", self._path(name), missing_ok=True, or_else=lambda: not self._lists(name))
        return answer.content if answer.is_success else None

    def sizes(self, folder: str) -> dict[str, int]:
        """Return what lies in a folder, by its last name, with the number of bytes of each; folders have none.

        Raises:
            TransferError: MLflow does not answer, or refuses.
        """
        files = self._ask("GET", "", params={"path": f"{self._root}/{folder}".rstrip("/")}).json().get("files", [])
        return {str(file["path"]): int(file.get("file_size") or 0) for file in files}

    def remove(self, name: str) -> None:
        """Remove what is kept under a name, or all that is below a folder; nothing is no error.

        Raises:
            TransferError: MLflow does not answer, or refuses: an account without the right to delete.
        """
        self._ask("DELETE", self._path(name), missing_ok=True)

    def _path(self, name: str) -> str:
        return "/" + quote(f"{self._root}/{name}".rstrip("/"))

    def _lists(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        return last in self.sizes(folder)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        missing_ok: bool = False,
        or_else: Callable[[], bool] = lambda: False,
        **what: Any,
    ) -> httpx.Response:
        """Return an answer that is good, or says that nothing is there where that may be.

        Args:
            or_else: says whether a fault of the server's is no fault: MLflow answers 500 for what is missing in S3.
        """
        deadline, pause = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                answer = self._client.request(method, self.url + _API + path, **what)
                if answer.is_success or (missing_ok and answer.status_code == 404):
                    return answer
                if (answer.status_code < 500 and answer.status_code != 429) or _SERVES_NONE in answer.text:
                    raise TransferError(self._refusal(method, answer))
                if or_else():
                    return answer
                fault = f"{answer.status_code} {answer.text[:200]}"
            except (httpx.TransportError, RuntimeError) as exc:  # RuntimeError: the client was closed
                fault = f"{type(exc).__name__}: {exc}"
            if time.monotonic() + pause > deadline or self._closed.wait(pause * random.uniform(0.5, 1.0)):
                raise TransferError(f"MLflow at {self.url} does not answer, its artifact store is needed ({fault})")
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _refusal(self, method: str, answer: httpx.Response) -> str:
        if _SERVES_NONE in answer.text:
            return f"MLflow at {self.url} hands no files on: start it with --serve-artifacts, or by `yard up`"
        said = " ".join(answer.text.split())[:200]
        return f"MLflow at {self.url} refuses {method} of {ROOT}/ in its artifact store: {answer.status_code} {said}"


def need(data: bytes | None, name: str) -> bytes:
    """Return the bytes of something that must be there.

    Raises:
        StorageError: it is not.
    """
    if data is None:
        raise StorageError(f"found no {ROOT}/{name} in MLflow's artifact store, which others there name: send it again")
    return data
