"""The history of a box on SQLite arrives in a lab row by row, also after a kill, and is never mixed with another."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import boto3
import pytest

from deployments.lab.migrate import MARK
from tests.deployments.closed_yard import OWN, SMALL, write_images
from tests.deployments.lab.servers import BUCKET, KEY, lab_servers

COMMAND = (sys.executable, "-m", "deployments.cli.app")


@pytest.fixture(scope="module")
def servers():
    with lab_servers() as found:
        yield found


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """The environment of a box on SQLite, with a training that is over."""
    folder = tmp_path_factory.mktemp("box")
    environ = {name: value for name, value in os.environ.items() if name not in OWN} | {
        "TRAINYARD_HOME": str(folder / "home"),
        "TRAINYARD_LOCK_DIR": str(folder / "locks"),
        "TRAINYARD_DATABASE": "sqlite",
        "HOME": str(folder),
    }
    data = write_images(folder / "data")
    words = [word for value in SMALL for word in ("--set", value)]
    command = [*COMMAND, "run", "classification", "--data", data, "--device", "cpu", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return folder / "home", environ


@pytest.fixture(scope="module")
def lab(servers, box, tmp_path_factory):
    home, environ = box
    folder = tmp_path_factory.mktemp("lab")
    path = folder / "lab.yaml"
    path.write_text(
        f"""
prefect: https://yard.lab/api
mlflow: https://yard.lab:5443
auth: auth
database: {{address: "{servers.database.address}", password_file: {servers.database.password_file}}}
redis: {{address: "{servers.redis.address}", password_file: {servers.redis.password_file}}}
files: {{place: {servers.files.place}, endpoint: "{servers.files.endpoint}", key_file: {servers.files.key_file}}}
"""
    )
    subprocess.run([*COMMAND, "auth", "init", folder / "auth"], env=environ, check=True, capture_output=True)
    return path


def counts(path):
    """Return table -> number of rows of a file of SQLite, of those that have any."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        asked = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in database.execute(asked)]
        found = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
    return {name: n for name, n in found.items() if n and not name.startswith("alembic")}


def migrate(lab, environ, *words):
    command = [*COMMAND, "migrate", "--config", lab, *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=250)


def test_killed_it_leaves_nothing_half_and_then_all_arrives(servers, box, lab):
    home, environ = box
    before = {path: path.read_bytes() for path in (home / "prefect" / "prefect.db", home / "mlflow" / "mlflow.db")}
    command = [*COMMAND, "migrate", "--config", lab]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if line.startswith("mlflow"):
                process.send_signal(signal.SIGKILL)
                break
    with servers.connect("mlflow") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    done = migrate(lab, environ, "--json")
    assert done.returncode == 0, done.stderr
    moved = json.loads(done.stdout)
    assert moved["files"]["n_before"] == moved["files"]["n_files"] > 5  # the first attempt had sent them
    for one, path in zip(moved["databases"], reversed(before), strict=True):
        assert one["rows"] == counts(path)
        with servers.connect(one["name"]) as connection:
            for table, n in one["rows"].items():
                assert connection.execute(f'SELECT count(*) FROM "{table}"').fetchone() == (n,)
    assert {path: path.read_bytes() for path in before} == before
    assert [one["before"] for one in json.loads(migrate(lab, environ, "--json").stdout)["databases"]] == [True, True]


def test_values_are_the_same_and_files_are_in_the_bucket(servers, box):
    home, _ = box
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database:
        metrics = sorted(database.execute("SELECT run_uuid, key, value, step, timestamp FROM metrics").fetchall())
    with servers.connect("mlflow") as connection:
        asked = "SELECT run_uuid, key, value, step, timestamp FROM metrics"
        assert sorted(connection.execute(asked).fetchall()) == metrics
        places = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs").fetchall()]
        assert all(uri.startswith("mlflow-artifacts:/") for uri in places)
        (following,) = connection.execute("SELECT nextval('experiments_experiment_id_seq')").fetchone()
        (most,) = connection.execute("SELECT max(experiment_id) FROM experiments").fetchone()
        assert following == most + 1
        assert connection.execute("SELECT count(*) FROM pg_constraint WHERE contype = 'f'").fetchone()[0] > 20
    store = boto3.client(
        "s3", endpoint_url=servers.files.endpoint, aws_access_key_id=KEY[0], aws_secret_access_key=KEY[1]
    )
    keys = {one["Key"] for one in store.list_objects_v2(Bucket=BUCKET)["Contents"]}
    root = home / "mlflow" / "artifacts"
    assert keys == {f"mlflow/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file()}
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        names = sorted(database.execute("SELECT name, state_type, run_count FROM flow_run").fetchall())
    with servers.connect("prefect") as connection:
        assert sorted(connection.execute("SELECT name, state_type, run_count FROM flow_run").fetchall()) == names


def test_a_lab_with_a_history_takes_no_other(servers, box, lab):
    _, environ = box
    with servers.connect("mlflow") as connection:
        connection.execute(f"DROP TABLE {MARK}")  # as if another home had come
    done = migrate(lab, environ)
    assert done.returncode == 1
    assert "rows of runs in mlflow at" in done.stderr
    assert "a history is moved into an empty lab alone" in done.stderr


def test_a_home_without_a_history_is_said(box, lab, tmp_path):
    _, environ = box
    done = migrate(lab, environ | {"TRAINYARD_HOME": str(tmp_path / "new")})
    assert f"{tmp_path / 'new'} has no history to move" in done.stderr
