"""Starts the database of a home: PostgreSQL where it is installed or was used before, otherwise SQLite."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.services.postgres import create, installed, server_user
from deployments.services.shared_postgres import postgres_up
from tasks.base.errors import StorageError
from tasks.base.servers.database import Kind, forced_kind, postgres_record
from tasks.base.workspace import home

_PREFECT_URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_SEVERAL = (
    "SQLite is for one person: of 20 runs submitted at once the server answers 19 with 503 (database is locked) at "
    "first, and the clients ask again for up to a minute"
)


@dataclass(frozen=True, slots=True)
class Database:
    """What holds the runs of a home.

    Args:
        kind: which.
        notes: what a person must know about the choice, a line each.
        url: Prefect's, None for its file of SQLite.
        kept: whether it is this home's own PostgreSQL, to be started again when it dies.
    """

    kind: Kind
    notes: tuple[str, ...]
    url: str | None
    kept: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """Return what Prefect's server must know; a database that the environment names goes before ours."""
        return {_PREFECT_URL: os.environ.get(_PREFECT_URL) or self.url} if self.url else {}


@contextmanager
def database_up(*, make: bool) -> Iterator[Database]:
    """Have the home's database up for the block.

    Args:
        make: a PostgreSQL where the home holds no run yet and this machine has its programs.

    Raises:
        ServiceError: PostgreSQL does not start, or the version that made the data is not here.
        StorageError: the disk is full, or a file is damaged.
    """
    kind, notes = choose(make=make)
    if kind == "sqlite":
        yield Database(kind, notes, None)
        return
    if not postgres_record():
        place = create().data
        if not place.is_relative_to(home()):
            notes = (*notes, f"PostgreSQL's data lies in {place}: its user cannot get into {home()}")
    with postgres_up() as cluster:
        yield Database(kind, notes, cluster.url("asyncpg", "prefect"), kept=True)


def choose(*, make: bool) -> tuple[Kind, tuple[str, ...]]:
    """Return the database of this home, and what a person must know about that; history is never hidden in silence.

    Args:
        make: whether an empty home may get PostgreSQL.

    Raises:
        ConfigError: TRAINYARD_DATABASE is neither sqlite nor postgres.
        StorageError: a file of the home is damaged.
    """
    wanted, record, n_before = forced_kind(), postgres_record(), n_sqlite_runs()
    before = f"the {n_before} runs of before are in SQLite, and not shown: TRAINYARD_DATABASE=sqlite shows them"
    if wanted == "sqlite" and record:
        return "sqlite", (f"the runs in the PostgreSQL in {home() / record['data']} are not shown", _SEVERAL)
    if wanted == "sqlite":
        return "sqlite", (_SEVERAL,)
    if wanted == "postgres" or record:
        return "postgres", (before,) if n_before else ()
    if n_before:
        way = "TRAINYARD_DATABASE=postgres starts with an empty PostgreSQL beside them"
        return "sqlite", (f"this home holds {n_before} runs in SQLite and goes on with it. {_SEVERAL}; {way}",)
    if make and installed() and server_user():
        return "postgres", ()
    way = "PostgreSQL (apt install postgresql) has no such limit, and is taken by an empty TRAINYARD_HOME where it is"
    return "sqlite", (f"{_SEVERAL}. {way}",)


def n_sqlite_runs() -> int:
    """Return how many runs the SQLite files of this home hold, Prefect's or MLflow's, whichever has more.

    Raises:
        StorageError: a file is no database.
    """
    prefect = Path(os.environ.get("PREFECT_HOME", home() / "prefect")) / "prefect.db"
    return max(_count(prefect, "flow_run"), _count(home() / "mlflow" / "mlflow.db", "runs"))


def _count(path: Path, table: str) -> int:
    if not path.is_file():
        return 0
    try:
        database = sqlite3.connect(path)
        try:
            made = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if made else 0
        finally:
            database.close()
    except sqlite3.Error as exc:
        raise StorageError(f"cannot read {path}: {exc}; it holds the runs of this home, restore it") from exc
