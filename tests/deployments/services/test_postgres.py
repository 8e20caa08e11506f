"""The private PostgreSQL is made once, open to its owner only, up while somebody needs it, and never loses a row."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from deployments.services import postgres
from deployments.services.postgres import PORT, create, installed, load, server_command, server_user
from deployments.services.service import ServiceError
from deployments.services.shared_postgres import postgres_keeper, postgres_up
from deployments.stack.child import KeptPostgres
from tasks.base.errors import StorageError
from tasks.base.servers.database import database_file, mlflow_uri, postgres_record
from tests.deployments.waiting import wait_for

pytestmark = pytest.mark.skipif(not installed() or server_user() is None, reason="no PostgreSQL on this machine")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its files to another user")


@contextmanager
def open_folder():
    """Yield a folder that every user gets into, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="yard-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def made():
    """The home of a cluster; what a killed attempt left was in the way."""
    with open_folder() as folder, pytest.MonkeyPatch.context() as patch:
        home = folder / "my yard"  # its name is part of an address
        patch.setenv("TRAINYARD_HOME", str(home))
        (home / "postgres" / "data.tmp" / "base").mkdir(parents=True)
        create()
        yield home


@pytest.fixture
def home(made, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(made))
    monkeypatch.delenv("TRAINYARD_DATABASE", raising=False)
    return made


def connect(uri):
    return psycopg.connect(uri.replace("+psycopg", "").replace("+asyncpg", ""), autocommit=True)


def postmaster(cluster):
    return psutil.Process(int((cluster.data / "postmaster.pid").read_text().split()[0]))


def test_what_is_written_is_there_the_next_time(home):
    with postgres_up(), connect(mlflow_uri()) as session:
        session.execute("CREATE TABLE kept (n int)")
        session.execute("INSERT INTO kept VALUES (7)")
    assert not postgres_keeper().alive()
    with postgres_up(), connect(mlflow_uri()) as session:
        assert session.execute("SELECT n FROM kept").fetchone() == (7,)
        assert session.execute("SHOW fsync").fetchone() == ("on",)


def test_prefect_finds_a_database_with_what_its_tables_need(home):
    with postgres_up(), connect(postgres_record()["prefect"]) as session:
        assert session.execute("SELECT extname FROM pg_extension WHERE extname = 'pg_trgm'").fetchone()
        assert session.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)


def test_it_listens_on_no_port(home):
    with postgres_up() as cluster:
        listening = [c for c in postmaster(cluster).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening == []


@as_root
def test_it_does_not_run_as_root_and_lets_no_other_user_in(home, as_nobody):
    _, call = as_nobody
    with postgres_up() as cluster:
        assert postmaster(cluster).username() != "root"
        assert cluster.data.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(PermissionError):
            call(probe.connect, str(cluster.sockets / f".s.PGSQL.{PORT}"))
        cluster.sockets.chmod(0o755)  # even then the server itself asks the kernel who it is
        (cluster.sockets / f".s.PGSQL.{PORT}").chmod(0o777)
        try:
            with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
                call(connect, mlflow_uri())
        finally:
            cluster.sockets.chmod(0o700)


def test_it_is_up_while_anybody_needs_it_and_no_longer(home):
    code = "import time\nfrom deployments.services.shared_postgres import postgres_up\nwith postgres_up():\n"
    stays = "    print('up', flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code + stays], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "up\n"
    with postgres_up() as cluster:
        server = postmaster(cluster)
    assert cluster.ready()
    assert server.is_running()
    other.kill()
    other.wait()
    assert wait_for(lambda: not server.is_running() and not postgres_keeper().alive())
    assert not (cluster.data / "postmaster.pid").exists()  # it ended in order


def test_a_killed_server_is_started_again_with_every_row(home):
    with postgres_up() as cluster:
        with connect(mlflow_uri()) as session:
            session.execute("CREATE TABLE rows AS SELECT generate_series(1, 1000) AS n")
        child = KeptPostgres()
        assert child.tend() is None
        postmaster(cluster).kill()
        assert wait_for(lambda: not postgres_keeper().alive())
        assert "postgres has ended; is started again" in str(child.tend())
        # A start may come too early for the helpers of the killed one, then the next one does it.
        assert wait_for(lambda: (child.tend(), cluster.ready())[1])
        with connect(mlflow_uri()) as session:
            assert session.execute("SELECT count(*) FROM rows").fetchone() == (1000,)


def test_a_killed_keeper_takes_its_server_along(home):
    with postgres_up() as cluster:
        server = postmaster(cluster)
        keeper = server.parent()
        assert keeper is not None
        os.kill(keeper.pid, signal.SIGKILL)
        assert wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
        assert not postgres_keeper().alive()


def test_another_version_on_the_machine_is_refused_with_both_named(home):
    before = database_file().read_text()
    major = postgres_record()["major"]
    database_file().write_text(json.dumps(json.loads(before) | {"major": "9"}))
    try:
        with pytest.raises(ServiceError, match=rf"in a PostgreSQL 9 \(.*data\), found on this machine: .*{major}"):
            load()
    finally:
        database_file().write_text(before)


def test_a_damaged_file_of_its_place_is_named(home):
    before = database_file().read_text()
    database_file().write_text("{}")
    try:
        with pytest.raises(StorageError, match=r"cannot read .*database\.json: need the place"):
            mlflow_uri()
    finally:
        database_file().write_text(before)


@as_root
def test_where_its_user_cannot_get_into_the_home_the_data_lies_elsewhere(monkeypatch):
    with open_folder() as closed, open_folder() as elsewhere:
        closed.chmod(0o700)
        monkeypatch.setenv("TRAINYARD_HOME", str(closed / "yard"))
        monkeypatch.setattr(postgres, "ELSEWHERE", elsewhere)
        cluster = create()
        assert cluster.data.is_relative_to(elsewhere)
        assert load() == cluster
        with postgres_up(), connect(mlflow_uri()) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)


def test_the_folder_of_its_socket_is_short_and_closed(home):
    cluster = load()
    assert cluster.sockets == home / "postgres" / "socket"
    deep = postgres.Cluster(home / ("x" * 90) / "data", cluster.programs, cluster.major, cluster.user)
    assert deep.sockets.parent == Path("/tmp")
    deep.sockets.mkdir(mode=0o755)  # somebody was faster
    try:
        with pytest.raises(ServiceError, match="open to others, need a folder of"):
            server_command(deep)
    finally:
        deep.sockets.rmdir()


def test_a_full_disk_is_said_and_leaves_nothing_that_looks_whole(monkeypatch):
    with open_folder() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], check=False).returncode:
            pytest.skip("no right to mount a small disk")
        folder.chmod(0o755)
        monkeypatch.setenv("TRAINYARD_HOME", str(folder))
        try:
            with pytest.raises(StorageError, match="disk full while making the database in"):
                create()
            assert postgres_record() == {}
            assert not (folder / "postgres" / "data").exists()
        finally:
            subprocess.run(["umount", folder], check=True)
