"""The services of compose.yaml as Docker starts them, where it has their images; Redis's command also without it."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
import yaml

from deployments.lab.checks import check_servers
from deployments.lab.config import LabConfig, read_config
from deployments.lab.files import s3_client
from deployments.services.service import free_port
from tests.deployments.closed_yard import ROOT
from tests.deployments.lab.servers import process
from tests.deployments.waiting import wait_for

FILES = ROOT / "deployments" / "lab"
COMPOSE = yaml.safe_load((FILES / "compose.yaml").read_text())
SECRETS = {"postgres": "postgres-secret", "redis": "redis-secret", "s3": "lab-key:lab-secret"}


def lacking() -> str:
    """Return what of Docker is not here, and so is not tried; empty for nothing."""
    images = sorted({service["image"] for service in COMPOSE["services"].values()})
    for command in (["docker", "compose", "version"], ["docker", "image", "inspect", *images]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "no Docker on this machine"
        if done.returncode:
            return f"{' '.join(command[:3])}: {(done.stderr.strip() or 'fails').splitlines()[0]}"
    return ""


@dataclass(frozen=True)
class Composed:
    """A copy of compose.yaml with secrets, ports and volumes of its own."""

    file: Path
    config: LabConfig

    def docker(self, *words: str) -> str:
        command = ["docker", "compose", "-f", str(self.file), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inspect(self, service: str, field: str) -> str:
        name = self.docker("ps", "-a", "-q", service).strip()
        command = ["docker", "inspect", "-f", f"{{{{json {field}}}}}", name]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def faults(self) -> list[str]:
        return check_servers(self.config)


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> Iterator[Composed]:
    if why := lacking():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("composed")
    for name, text in SECRETS.items():
        (folder / name).touch(0o600)
        (folder / name).write_text(text)
    shutil.copy(FILES / "init.sql", folder)
    text, settings = (FILES / "compose.yaml").read_text(), (FILES / "lab.yaml").read_text()
    for port in (5432, 6379, 9000):
        free = str(free_port())
        text = text.replace(f"127.0.0.1:{port}:", f"127.0.0.1:{free}:")
        settings = settings.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
    text = text.replace("name: trainyard-lab\n", f"name: trainyard-test-{os.getpid()}\n")
    (folder / "compose.yaml").write_text(text.replace("/etc/trainyard/", f"{folder}/"))
    (folder / "lab.yaml").write_text(settings.replace("/etc/trainyard/", f"{folder}/"))
    found = Composed(folder / "compose.yaml", read_config(folder / "lab.yaml"))
    try:
        found.docker("up", "-d", "--wait")
        found.docker("exec", "-T", "s3", "sh", "-c", "echo s3.bucket.create -name yard | weed shell")
        assert wait_for(lambda: not found.faults(), 60) is True, found.faults()
        yield found
    finally:
        found.docker("down", "--volumes")


def put(config: LabConfig) -> None:
    """Leave something in each of the three."""
    s3_client(config.files).put_object(Bucket="yard", Key="kept", Body=b"kept" * 100_000)
    redis.Redis.from_url(config.redis.url).set("kept", "kept")
    with connect(config) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'kept' AS what")


def connect(config: LabConfig) -> psycopg.Connection:
    login = {"user": "yard", "password": SECRETS["postgres"], "dbname": config.database.mlflow}
    return psycopg.connect(host=config.database.host, port=config.database.port, **login)


def assert_kept(config: LabConfig) -> None:
    assert len(s3_client(config.files).get_object(Bucket="yard", Key="kept")["Body"].read()) == 400_000
    assert redis.Redis.from_url(config.redis.url).get("kept") == b"kept"
    with connect(config) as connection:
        assert connection.execute("SELECT what FROM kept").fetchall() == [("kept",)]


def test_what_is_in_the_services_outlives_kills_and_containers(composed):
    put(composed.config)
    for service in COMPOSE["services"]:
        os.kill(composed.inspect(service, ".State.Pid"), signal.SIGKILL)
    assert wait_for(lambda: all(composed.inspect(one, ".RestartCount") for one in COMPOSE["services"]), 30)
    assert wait_for(lambda: not composed.faults(), 60) is True, composed.faults()
    assert_kept(composed.config)
    composed.docker("stop")
    assert {one: composed.inspect(one, ".State.ExitCode") for one in COMPOSE["services"]} == dict.fromkeys(
        COMPOSE["services"], 0
    )
    composed.docker("down")
    composed.docker("up", "-d", "--wait")
    assert wait_for(lambda: not composed.faults(), 60) is True, composed.faults()
    assert_kept(composed.config)


def test_no_service_runs_as_root(composed):
    for service in ("postgres", "redis", "s3"):
        status = Path(f"/proc/{composed.inspect(service, '.State.Pid')}/status").read_text()
        (uids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
        assert "0" not in uids, service


def test_both_databases_belong_to_the_yard(composed):
    with connect(composed.config) as connection:
        owners = connection.execute(
            "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        ).fetchall()
    assert sorted(owners) == [("mlflow", "yard"), ("prefect", "yard")]


@pytest.mark.parametrize("service", ["postgres", "redis", "s3", "s3-door"])
def test_a_service_that_is_stopped_is_named(composed, service):
    composed.docker("stop", service)
    (fault,) = composed.faults()
    composed.docker("start", service)
    assert "does not answer" in fault
    assert fault.lower().startswith({"postgres": "postgresql", "redis": "redis"}.get(service, "s3"))
    assert wait_for(lambda: not composed.faults(), 60) is True, composed.faults()


@pytest.fixture
def redis_of_compose(tmp_path):
    """Return the command of Redis, and an environment in which it needs no container."""
    (tmp_path / "docker-entrypoint.sh").write_text(
        f'#!/bin/sh\nexec "$@" --bind 127.0.0.1 --dir {tmp_path} --port $PORT\n'
    )
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    words = [word.replace("$$", "$") for word in COMPOSE["services"]["redis"]["command"]]
    command = [word.replace("/run/secrets", str(tmp_path)) for word in words]
    return command, os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": str(free_port())}


def test_redis_asks_for_the_password_of_its_file(redis_of_compose, tmp_path):
    command, env = redis_of_compose
    (tmp_path / "redis").write_text("redis-secret\n")
    with process(command, tmp_path, "redis", env=env) as started:
        store = redis.Redis(port=int(env["PORT"]), password="redis-secret")

        def ready() -> bool:
            try:
                return bool(store.ping())
            except redis.ConnectionError:
                return False

        assert wait_for(ready)
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=int(env["PORT"])).ping()
        words = Path(f"/proc/{started.pid}/cmdline").read_text()
        assert words.startswith("redis-server")  # in place of the shell: a stop reaches it
        assert "secret" not in words


@pytest.mark.parametrize("text", ["", None], ids=["empty", "missing"])
def test_redis_does_not_start_without_a_password(redis_of_compose, tmp_path, text):
    command, env = redis_of_compose
    if text is not None:
        (tmp_path / "redis").write_text(text)
    assert subprocess.run(command, env=env, capture_output=True, check=False, timeout=20).returncode != 0
