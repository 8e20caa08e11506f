import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deployments.services.service import free_port
from tasks.store.objects import Objects
from tests.deployments.lab.servers import s3_server


@pytest.fixture(scope="session", params=["folder", "s3"])
def mlflow_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MLflow's own server with its files in a folder, and then in an S3 server's bucket."""
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "folder":
        with _mlflow(folder, str(folder / "files"), {}) as url:
            yield url
        return
    with s3_server(folder) as files:
        assert files.key is not None
        key = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), files.key, strict=True))
        env = {"MLFLOW_S3_ENDPOINT_URL": str(files.endpoint), "AWS_DEFAULT_REGION": files.region, **key}
        with _mlflow(folder, files.place, env) as url:
            yield url


@contextmanager
def _mlflow(folder: Path, files: str, env: dict[str, str]) -> Iterator[str]:
    port = free_port()
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", files]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, *places], stdout=log, stderr=log, env={**os.environ, **env})
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, 120)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


@pytest.fixture
def objects(mlflow_url: str) -> Iterator[Objects]:
    with Objects(mlflow_url, patience_s=2) as found:
        yield found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a folder of the store that no other test has."""
    return f"runs/{request.node.name.replace('[', '-').rstrip(']')}"


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    """Return the same folder on two hosts."""
    found = tmp_path / "boxa" / "run", tmp_path / "boxb" / "run"
    for folder in found:
        folder.mkdir(parents=True)
    return found
