"""MLflow's server by plain HTTP: runs, tags, and files of at most ten megabytes, which it takes as shipped."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from deployments.services.service import ServiceError
from tasks.base.errors import ConfigError
from tasks.base.servers.mlflow_account import account_headers
from tasks.base.servers.tls import MLFLOW, trusted

EXPERIMENT = "uploads"
"""In which each upload is a run; its tags say how far it is, its files are the parts."""

_TIMEOUT_S = 60


class GoneError(ConfigError):
    """MLflow has no such thing."""


class MlflowHttp:
    """MLflow's API.

    Args:
        url: of the server; who asks, and whose certificates count, say MLflow's own variables.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, /, **params: str) -> Any:
        """Return what MLflow answers to a call of its REST API.

        Raises:
            GoneError: there is no such thing.
            ConfigError: it refuses, with its reason.
            ServiceError: it does not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self._send(method, f"/api/2.0/mlflow/{path}", data, "application/json", params) or b"{}")

    def experiment(self) -> str:
        """Return the id of the experiment of uploads, made where it is missing."""
        if found := self._experiment():
            return found
        try:
            return str(self.ask("POST", "experiments/create", {"name": EXPERIMENT})["experiment_id"])
        except ConfigError:  # somebody else was faster
            return self._experiment()

    def _experiment(self) -> str:
        """Return the id of the experiment, empty where it is missing."""
        try:
            found = self.ask("GET", "experiments/get-by-name", experiment_name=EXPERIMENT)
        except GoneError:
            return ""
        return str(found["experiment"]["experiment_id"])

    def runs(self, condition: str) -> list[dict[str, Any]]:
        """Return the uploads of which something is true, as MLflow writes it: id, name, tags, status, artifact_uri.

        Empty where nobody has ever sent anything.
        """
        if not (found := self._experiment()):
            return []
        wanted = {"experiment_ids": [found], "filter": condition, "max_results": 100}
        return [_plain(run) for run in self.ask("POST", "runs/search", wanted).get("runs", [])]

    def run(self, run_id: str) -> dict[str, Any]:
        """Return an upload: id, name, tags, status, artifact_uri."""
        return _plain(self.ask("GET", "runs/get", run_id=run_id)["run"])

    def tag(self, run_id: str, **tags: str) -> None:
        """Set tags of an upload; `_` stands for a dot."""
        for name, value in tags.items():
            self.ask("POST", "runs/set-tag", {"run_id": run_id, "key": name.replace("_", "."), "value": value[:5000]})

    def files(self, run_id: str, folder: str) -> dict[str, int]:
        """Return name -> size of the files in a folder of a run."""
        found = self.ask("GET", "artifacts/list", run_id=run_id, path=folder).get("files", [])
        return {PurePosixPath(file["path"]).name: int(file.get("file_size", 0)) for file in found if not file["is_dir"]}

    def put(self, run_id: str, path: str, data: bytes) -> None:
        """Write a file of a run."""
        params = {"run_uuid": run_id, "path": path}
        self._send("POST", "/ajax-api/2.0/mlflow/upload-artifact", data, "application/octet-stream", params)

    def get(self, run_id: str, path: str, most_bytes: int) -> bytes:
        """Return a file of a run, of which no more than so many bytes are read."""
        return self._send("GET", "/get-artifact", None, "", {"run_uuid": run_id, "path": path}, most_bytes)

    def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        kind: str,
        params: Mapping[str, str],
        most_bytes: int = -1,
    ) -> bytes:
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        headers = account_headers(self.url) | ({"Content-Type": kind} if kind else {})
        request = urllib.request.Request(f"{self.url}{path}{query}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=trusted(MLFLOW)) as answer:
                return bytes(answer.read(most_bytes) if most_bytes >= 0 else answer.read())
        except urllib.error.HTTPError as exc:
            with exc:
                said = _said(exc.read(10_000))
            if exc.code == 404:
                raise GoneError(f"MLflow at {self.url} has no such thing: {said}") from exc
            if 400 <= exc.code < 500 and exc.code not in {408, 429}:
                raise ConfigError(f"MLflow at {self.url} refuses: {said}") from exc
            raise ServiceError(f"MLflow at {self.url} answers {exc.code}: {said}") from exc
        except OSError as exc:  # the connection is refused, cut off, or silent
            raise ServiceError(f"no answer from MLflow at {self.url} ({exc})") from exc


def _said(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.decode(errors="replace").split())[:300]


def _plain(run: Mapping[str, Any]) -> dict[str, Any]:
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    info = run["info"]
    names = {"id": info["run_id"], "name": info.get("run_name", ""), "artifact_uri": info["artifact_uri"]}
    return {**names, "status": info["status"], "start_time": int(info["start_time"]), "tags": tags}
