"""Each service of a lab is broken for real, and the sentence names what is wrong."""

import os
import signal
import subprocess
import sys

import pytest
import redis

from deployments.lab.checks import (
    check_database,
    check_files,
    check_redis,
    mlflow_heads,
    prefect_heads,
)
from deployments.lab.plan import prefect_settings
from deployments.services.service import free_port
from tests.deployments.closed_yard import ROOT
from tests.deployments.lab.servers import lab_servers, process
from tests.deployments.waiting import wait_for


@pytest.fixture(scope="module")
def servers():
    with lab_servers() as found:
        yield found


@pytest.fixture(scope="module")
def heads():
    return prefect_heads()


def changed(config, **values):
    return config.model_copy(update=values)


def one(faults):
    (fault,) = faults
    return fault


def test_what_works_is_no_fault(servers, heads):
    assert [*check_database(servers.database, "prefect", heads)] == []
    assert [*check_redis(servers.redis)] == []
    assert [*check_files(servers.files)] == []


def test_nobody_who_listens(servers, heads):
    nowhere = f"127.0.0.1:{free_port()}"
    assert f"PostgreSQL at {nowhere} does not answer: " in one(
        check_database(changed(servers.database, address=nowhere), "prefect", heads)
    )
    assert f"Redis at {nowhere} does not answer: " in one(check_redis(changed(servers.redis, address=nowhere)))
    files = changed(servers.files, endpoint=f"http://{nowhere}")
    assert f"S3 at http://{nowhere} does not answer: " in one(check_files(files))


def test_wrong_passwords(servers, heads):
    wrong = servers.secret("wrong", "wrong:secret")
    database = changed(servers.database, password_file=wrong)
    assert f"refuses user yard: another password than in {wrong}" in one(check_database(database, "prefect", heads))
    assert f"refuses: another password than in {wrong}" in one(check_redis(changed(servers.redis, password_file=wrong)))
    none = changed(servers.redis, password_file=None)
    assert "refuses: another password than in no password_file" in one(check_redis(none))


def test_a_server_that_does_not_encrypt(servers, heads):
    database = changed(servers.database, tls=True)
    assert "encrypts nothing, and the settings say tls: true" in one(check_database(database, "prefect", heads))
    closed = changed(servers.redis, certificates=servers.folder / "none.pem")
    assert f"Redis at {servers.redis.address}" in one(check_redis(closed))


def test_connections_that_are_encrypted(tmp_path, heads):
    folder = tmp_path / "ca"
    subprocess.run(["sh", ROOT / "deployments" / "lab" / "certificates.sh", "127.0.0.1", folder], check=True)
    with lab_servers(s3=False, certificates=folder) as servers:
        assert servers.redis.url.startswith("rediss://")
        assert [*check_redis(servers.redis)] == []
        assert [*check_database(servers.database, "prefect", heads)] == []
        environ = os.environ | {"TRAINYARD_HOME": str(tmp_path)} | prefect_settings(servers.database, servers.redis)
        words = ["-m", "deployments.services.prefect_server", "server", "database", "upgrade", "--yes"]
        subprocess.run([sys.executable, *words], env=environ, check=True, capture_output=True, cwd=ROOT)
        behind = [sys.executable, "-m", "deployments.lab.behind"]
        with process(behind, tmp_path, "behind", env=environ, cwd=ROOT), servers.connect("prefect") as connection:
            begun = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'yard'"
            assert wait_for(lambda: connection.execute(begun).fetchone()[0] > 1, 60)
            with redis.Redis.from_url(servers.redis.url) as store:
                assert wait_for(lambda: store.exists("prefect:runs:monitor_worker_health"), 60)


def test_a_database_that_is_missing_or_closed(servers, heads):
    assert "has no database nowhere: `CREATE DATABASE nowhere OWNER yard` makes it" in one(
        check_database(servers.database, "nowhere", heads)
    )
    with servers.connect(user="postgres") as connection:
        connection.execute("CREATE DATABASE foreign_one")
    assert "lets this user make no tables in foreign_one" in one(check_database(servers.database, "foreign_one", heads))


def test_tables_of_another_version(servers, heads):
    older = next(state for state, newest in heads.items() if not newest)
    with servers.connect("mlflow") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num text)")
        connection.execute("INSERT INTO alembic_version VALUES (%s)", (older,))
        said = one(check_database(servers.database, "mlflow", heads))
        assert f"of an older version ({older}): back them up, end all of the lab, and start with --upgrade" in said
        assert "of a newer version" in one(check_database(servers.database, "mlflow", mlflow_heads()))
        connection.execute("DROP TABLE alembic_version")


def test_a_bucket_that_is_missing_or_not_writable(servers):
    assert "has no bucket nowhere: make it there" in one(check_files(changed(servers.files, place="s3://nowhere/a")))


def test_a_proxy_with_no_bucket_behind_it(servers, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with process(["caddy", "respond", "--listen", address, "--status", "502"], tmp_path, "caddy"):
        files = changed(servers.files, endpoint=f"http://{address}")
        said = f"S3 at http://{address} does not answer, only a proxy in front of it (502)"
        assert wait_for(lambda: [*check_files(files)] == [said]), [*check_files(files)]


def test_redis_that_forgets(servers):
    with redis.Redis.from_url(servers.redis.url) as store:
        store.config_set("maxmemory", "10mb")
        store.config_set("maxmemory-policy", "allkeys-lru")
        assert "drops what it holds when it is full (allkeys-lru): need noeviction" in one(check_redis(servers.redis))
        store.config_set("maxmemory", "0")


def test_yard_up_says_all_of_it_at_once(servers, tmp_path):
    nowhere = f"127.0.0.1:{free_port()}"
    (tmp_path / "lab.yaml").write_text(
        f"""
prefect: http://{nowhere}/api
mlflow: http://{nowhere}
auth: auth
database: {{address: "{nowhere}", password_file: {servers.database.password_file}}}
redis: {{address: "{servers.redis.address}"}}
files: {{place: s3://nowhere/a, endpoint: "{servers.files.endpoint}", key_file: {servers.files.key_file}}}
"""
    )
    words = ["up", "--stack", "lab", "--config", tmp_path / "lab.yaml"]
    environ = os.environ | {"TRAINYARD_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "deployments.cli.app", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=ROOT, timeout=100)
    assert done.returncode == 1
    lines = done.stderr.removeprefix("error: ").splitlines()
    assert (
        [line[:24] for line in lines if "UserWarning" not in line]
        == [
            "found no password and ml",
            "PostgreSQL at 127.0.0.1:",  # once for both databases
            "Redis at 127.0.0.1:" + servers.redis.address[10:15],
            "S3 at http://127.0.0.1:" + servers.files.endpoint[17:18],
        ]
    )
    done = subprocess.run([*command, "--here", "worker"], capture_output=True, text=True, env=environ, cwd=ROOT)
    assert f"Prefect at http://{nowhere}/api does not answer" in done.stderr
    assert f"MLflow at http://{nowhere} does not answer" in done.stderr


def test_a_server_that_hangs_is_given_up(servers, heads):
    with servers.connect(user="postgres") as connection:
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        with open(f"/proc/{pid}/stat") as stat:
            postmaster = int(stat.read().split()[3])
    os.kill(postmaster, signal.SIGSTOP)
    try:
        assert "does not answer" in one(check_database(servers.database, "prefect", heads))
    finally:
        os.kill(postmaster, signal.SIGCONT)
