"""PostgreSQL, Redis and an S3 server on loopback, each with a password, as a lab has them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from deployments.lab.config import DatabaseConfig, FilesConfig, RedisConfig
from deployments.services.postgres import installed, server_user
from deployments.services.service import free_port
from tests.deployments.waiting import wait_for

BUCKET = "yard"
KEY = ("lab-key", "lab-secret")


@dataclass(frozen=True)
class Servers:
    """Where they are, with files of their passwords in `folder`."""

    folder: Path
    database: DatabaseConfig
    redis: RedisConfig
    files: FilesConfig

    def connect(self, database: str = "postgres", user: str = "yard") -> psycopg.Connection[Any]:
        secret = "yard-secret" if user == "yard" else "super-secret"
        login = {"user": user, "password": secret, "dbname": database}
        return psycopg.connect(host="127.0.0.1", port=self.database.port, autocommit=True, **login)

    def secret(self, name: str, text: str) -> Path:
        """Return a file of mode 0600 with a text in it."""
        path = self.folder / name
        path.touch(0o600)
        path.write_text(text)
        return path


@contextmanager
def lab_servers(*, s3: bool = True, statements: bool = False, certificates: Path | None = None) -> Iterator[Servers]:
    """Have them up for the block, with empty databases `prefect` and `mlflow` and an empty bucket.

    Args:
        s3: whether there is an S3 server.
        statements: whether PostgreSQL counts its statements (pg_stat_statements).
        certificates: a folder of certificates.sh, with which PostgreSQL and Redis encrypt.
    """
    folder = Path(tempfile.mkdtemp(prefix="trainyard-lab-"))
    folder.chmod(0o755)  # PostgreSQL's user must get in
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(_postgres(folder, statements, certificates))
        redis = stack.enter_context(_redis(folder, certificates))
        files = stack.enter_context(s3_server(folder)) if s3 else FilesConfig(place=f"s3://{BUCKET}/none")
        yield Servers(folder, database, redis, files)


def _file(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


@contextmanager
def process(command: list[str], folder: Path, name: str, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program for the block; what it prints goes to a file of its name."""
    with (folder / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def _postgres(folder: Path, statements: bool, certificates: Path | None) -> Iterator[DatabaseConfig]:
    versions, user, port = installed(), server_user(), free_port()
    assert user is not None
    programs = versions[max(versions, key=int)]
    data = folder / "postgres"
    data.mkdir(mode=0o700)
    chosen = folder / "super"
    chosen.write_text("super-secret")
    for path in (data, chosen):
        os.chown(path, user.pw_uid, user.pw_gid)
    who: Any = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {}
    init = [programs / "initdb", "-D", data, "--username=postgres", f"--pwfile={chosen}", "--auth=scram-sha-256"]
    subprocess.run([*init, "--encoding=UTF8", "--locale=C"], check=True, capture_output=True, **who)
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "max_connections": 300}
    options |= {"shared_preload_libraries": "pg_stat_statements"} if statements else {"fsync": "off"}  # of a test's own
    if certificates:
        for name in ("yard.pem", "yard.key"):
            shutil.copy(certificates / name, data / name)
            os.chown(data / name, user.pw_uid, user.pw_gid)
        options |= {"ssl": "on", "ssl_cert_file": "yard.pem", "ssl_key_file": "yard.key"}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with process([str(programs / "postgres"), "-D", str(data), *words], folder, "postgres", **who):
        secret = _file(folder / "postgres-secret", "yard-secret")
        config = DatabaseConfig(address=f"127.0.0.1:{port}", password_file=secret, tls=certificates is not None)

        def ready() -> bool:
            try:
                psycopg.connect(host="127.0.0.1", port=port, user="postgres", password="super-secret").close()
            except psycopg.OperationalError:
                return False
            return True

        assert wait_for(ready)
        login = {"host": "127.0.0.1", "port": port, "user": "postgres", "password": "super-secret"}
        with psycopg.connect(**login, autocommit=True) as connection:
            connection.execute("CREATE ROLE yard LOGIN PASSWORD 'yard-secret'")
            for name in ("prefect", "mlflow"):
                connection.execute(f"CREATE DATABASE {name} OWNER yard")
        if statements:
            with psycopg.connect(**login, dbname="prefect", autocommit=True) as connection:
                connection.execute("CREATE EXTENSION pg_stat_statements")
        yield config


@contextmanager
def _redis(folder: Path, certificates: Path | None) -> Iterator[RedisConfig]:
    import redis

    port = free_port()
    settings = folder / "redis.conf"
    listens = f"port {port}"
    if certificates:
        files = f"tls-cert-file {certificates}/yard.pem\ntls-key-file {certificates}/yard.key\n"
        listens = f"port 0\ntls-port {port}\ntls-auth-clients no\ntls-ca-cert-file {certificates}/ca.pem\n{files}"
    settings.write_text(f'bind 127.0.0.1\n{listens}\nsave ""\nrequirepass redis-secret\ndir {folder}\n')
    with process(["redis-server", str(settings)], folder, "redis"):
        secret = _file(folder / "redis-secret", "redis-secret")
        ca_file = certificates / "ca.pem" if certificates else None
        config = RedisConfig(address=f"127.0.0.1:{port}", password_file=secret, certificates=ca_file)

        def ready() -> bool:
            try:
                return bool(redis.Redis.from_url(config.url).ping())
            except redis.ConnectionError:
                return False

        assert wait_for(ready)
        yield config


@contextmanager
def s3_server(folder: Path) -> Iterator[FilesConfig]:
    import boto3
    import httpx

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, folder, "s3"):

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/moto-api/").status_code == 200
            except httpx.TransportError:
                return False

        assert wait_for(ready, 60)
        config = FilesConfig(
            place=f"s3://{BUCKET}/mlflow", endpoint=url, key_file=_file(folder / "s3-key", ":".join(KEY))
        )
        boto3.client(
            "s3", endpoint_url=url, aws_access_key_id=KEY[0], aws_secret_access_key=KEY[1], region_name="us-east-1"
        ).create_bucket(Bucket=BUCKET)
        yield config
