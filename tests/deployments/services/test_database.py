"""Which database a home uses: the one its history is in, else PostgreSQL where it is; never a run hidden in silence."""

import json
import sqlite3

import pytest

from deployments.services.database import choose, n_sqlite_runs
from deployments.services.postgres import installed, server_user
from tasks.base.errors import ConfigError, StorageError
from tasks.base.servers.database import database_file, mlflow_uri

has_postgres = pytest.mark.skipif(not installed() or server_user() is None, reason="no PostgreSQL on this machine")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("TRAINYARD_DATABASE", raising=False)
    return tmp_path


def sqlite_runs(home, n_runs, *, table="flow_run", name="prefect/prefect.db"):
    (home / name).parent.mkdir(exist_ok=True)
    with sqlite3.connect(home / name) as database:
        database.execute(f"CREATE TABLE {table} (id)")
        database.executemany(f"INSERT INTO {table} VALUES (?)", [(n,) for n in range(n_runs)])


def postgres_made(home):
    record = {"major": "15", "data": "postgres/data", "prefect": "postgresql://p", "mlflow": "postgresql://m"}
    database_file().write_text(json.dumps(record))


@has_postgres
@pytest.mark.parametrize("n_runs", [None, 0])
def test_a_home_without_runs_gets_postgres(home, n_runs):
    if n_runs is not None:
        sqlite_runs(home, n_runs)
    assert choose(make=True) == ("postgres", ())


def test_a_run_alone_makes_no_postgres(home):
    kind, notes = choose(make=False)
    assert kind == "sqlite"
    assert "apt install postgresql" in notes[0]


def test_a_machine_without_postgres_uses_sqlite_and_says_what_several_people_will_see(monkeypatch):
    monkeypatch.setattr("deployments.services.database.installed", dict)
    kind, (note,) = choose(make=True)
    assert kind == "sqlite"
    assert "of 20 runs submitted at once the server answers 19 with 503" in note
    assert "apt install postgresql" in note


@pytest.mark.parametrize(("table", "name"), [("flow_run", "prefect/prefect.db"), ("runs", "mlflow/mlflow.db")])
def test_a_home_with_runs_in_sqlite_goes_on_with_it_and_says_so(home, table, name):
    sqlite_runs(home, 3, table=table, name=name)
    kind, (note,) = choose(make=True)
    assert kind == "sqlite"
    assert note.startswith("this home holds 3 runs in SQLite and goes on with it")
    assert "TRAINYARD_DATABASE=postgres" in note


def test_a_home_with_postgres_stays_with_it(home):
    postgres_made(home)
    assert choose(make=False) == ("postgres", ())
    assert mlflow_uri() == "postgresql://m"


def test_runs_that_another_database_holds_are_named(home, monkeypatch):
    sqlite_runs(home, 2)
    postgres_made(home)
    assert choose(make=True) == (
        "postgres",
        ("the 2 runs of before are in SQLite, and not shown: TRAINYARD_DATABASE=sqlite shows them",),
    )
    monkeypatch.setenv("TRAINYARD_DATABASE", "sqlite")
    kind, notes = choose(make=True)
    assert kind == "sqlite"
    assert notes[0] == f"the runs in the PostgreSQL in {home}/postgres/data are not shown"
    assert mlflow_uri() == f"sqlite:///{home}/mlflow/mlflow.db"


def test_a_database_asked_for_is_taken(home, monkeypatch):
    monkeypatch.setenv("TRAINYARD_DATABASE", "postgres")
    sqlite_runs(home, 2)
    kind, (note,) = choose(make=True)
    assert kind == "postgres"
    assert "2 runs of before are in SQLite, and not shown" in note
    with pytest.raises(ConfigError, match=r"TRAINYARD_DATABASE=postgres, but no PostgreSQL in .*: `yard up` makes it"):
        mlflow_uri()


def test_another_word_for_a_database_is_refused(monkeypatch):
    monkeypatch.setenv("TRAINYARD_DATABASE", "mysql")
    with pytest.raises(ConfigError, match="found TRAINYARD_DATABASE='mysql', need sqlite or postgres"):
        choose(make=True)


def test_a_damaged_file_of_runs_is_named(home):
    (home / "prefect").mkdir()
    (home / "prefect" / "prefect.db").write_text("no database" * 100)
    with pytest.raises(StorageError, match=r"cannot read .*prefect\.db: .*it holds the runs of this home"):
        n_sqlite_runs()


def test_mlflows_file_takes_several_writers(home):
    assert mlflow_uri() == f"sqlite:///{home}/mlflow/mlflow.db"
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
