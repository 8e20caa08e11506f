"""Copies the history of one box into the databases of a lab; the box stays as it is."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from deployments.lab.checks import mlflow_heads, prefect_heads
from deployments.lab.config import DatabaseConfig
from deployments.services.shared_postgres import postgres_up
from gpu_pools.names import host_name
from tasks.base.errors import ConfigError, StorageError
from tasks.base.servers.alive import supervisor
from tasks.base.servers.database import postgres_record, uses_postgres
from tasks.base.workspace import home

MARK = "trainyard_migration"
"""A table beside the others: from which home they came. What it names is not moved a second time."""

_BATCH = 1000
_OWN = ("alembic_version", "alembic_version_auth", MARK)
_HISTORY = {"prefect": ("flow_run", "flow", "deployment"), "mlflow": ("runs", "registered_models")}
"""Tables of each database that are empty in a lab nobody has used."""

_LINKS = sa.text(
    """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY conname
    """
)
_COUNTED = sa.text(
    """
    SELECT table_name, column_name, pg_get_serial_sequence(quote_ident(table_name), column_name)
    FROM information_schema.columns WHERE table_schema = 'public'
    """
)

Rows = dict[str, int]


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a database.

    Args:
        name: prefect or mlflow.
        rows: of each table that has any, the same number there as here.
        before: an earlier call has moved it.
    """

    name: str
    rows: Rows
    before: bool


@contextmanager
def sources() -> Iterator[Mapping[str, sa.Engine]]:
    """Have the databases of this home up for the block, to be read alone.

    Raises:
        ConfigError: its stack is up, or it has no history.
        ServiceError: its PostgreSQL does not start.
    """
    if (pid := supervisor()) is not None:
        raise ConfigError(f"found the stack of {home()} up (process {pid}): `yard down` first, so that nothing changes")
    with ExitStack() as stack:
        if uses_postgres():
            stack.enter_context(postgres_up())
            urls = {name: postgres_record()[name].replace("+asyncpg", "+psycopg") for name in ("prefect", "mlflow")}
        else:
            prefect = Path(os.environ.get("PREFECT_HOME", home() / "prefect")) / "prefect.db"
            files = {"prefect": prefect, "mlflow": home() / "mlflow" / "mlflow.db"}
            if missing := [str(path) for path in files.values() if not path.is_file()]:
                raise ConfigError(f"found no {' and no '.join(missing)}: {home()} has no history to move")
            urls = {name: f"sqlite:///file:{path}?mode=ro&uri=true" for name, path in files.items()}
        engines = {name: sa.create_engine(url) for name, url in urls.items()}
        for engine in engines.values():
            stack.callback(engine.dispose)
        yield engines


def move(name: str, source: sa.Engine, config: DatabaseConfig, artifacts: Path, say: Callable[[str], None]) -> Moved:
    """Copy all rows of a database in one transaction: all of them are there at the end, or none.

    Args:
        name: prefect or mlflow.
        source: this home's.
        config: the lab's PostgreSQL, whose tables are there.
        artifacts: the folder of this home's files, which lie in the lab's store then.
        say: is told what is done.

    Raises:
        ConfigError: the lab's database holds a history, or the versions differ.
        StorageError: the rows do not fit, or their numbers differ.
    """
    target = sa.create_engine(config.url("psycopg", getattr(config, name)))
    whose = f"{host_name()}:{home()}"
    try:
        with target.begin() as there, source.connect() as here:
            if known := _moved_before(there, whose):
                return Moved(name, known, before=True)
            _same_version(name, here, there, config)
            _unused(name, there, config)
            rows = _copy_all(name, here, there, artifacts, say)
            there.execute(sa.text(f"CREATE TABLE {MARK} (home text, name text, n bigint)"))
            marks = [{"home": whose, "name": table, "n": n} for table, n in rows.items()]
            if marks:
                there.execute(sa.text(f"INSERT INTO {MARK} VALUES (:home, :name, :n)"), marks)
            return Moved(name, rows, before=False)
    except sa.exc.DBAPIError as exc:
        said = str(exc.orig).strip().splitlines()[0]
        raise StorageError(f"cannot move {name} into {config.address}: {said}; nothing of it is there") from exc
    finally:
        target.dispose()


def _moved_before(there: sa.Connection, whose: str) -> Rows:
    if not sa.inspect(there).has_table(MARK):
        return {}
    found = there.execute(sa.text(f"SELECT name, n FROM {MARK} WHERE home = :home"), {"home": whose})
    return {name: n for name, n in found}


def _same_version(name: str, here: sa.Connection, there: sa.Connection, config: DatabaseConfig) -> None:
    """Hold the tables of both against this version's.

    Raises:
        ConfigError: one of them is older, or newer.
    """
    for connection, where in ((here, f"in {home()}"), (there, f"at {config.address}")):
        heads = mlflow_heads() if name == "mlflow" else prefect_heads(connection.dialect.name)
        state = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if not heads.get(str(state)):
            newest = next(one for one, new in heads.items() if new)
            raise ConfigError(
                f"found the tables of {name} {where} in state {state}, need {newest}: start it once with this version"
            )


def _unused(name: str, there: sa.Connection, config: DatabaseConfig) -> None:
    """Hold the lab's tables against a history.

    Raises:
        ConfigError: they have one.
    """
    for table in _HISTORY[name]:
        if n := there.execute(sa.text(f'SELECT count(*) FROM "{table}"')).scalar():
            raise ConfigError(
                f"found {n} rows of {table} in {name} at {config.address}: a history is moved into an empty lab alone"
            )


def _copy_all(
    name: str, here: sa.Connection, there: sa.Connection, artifacts: Path, say: Callable[[str], None]
) -> Rows:
    known = {table.name: table for table in _tables(name)}
    from_names, to_names = set(sa.inspect(here).get_table_names()), set(sa.inspect(there).get_table_names())
    links = there.execute(_LINKS).all()
    # Rows point at one another in circles: their order is free while nothing is held against anything.
    for table, link, _ in links:
        there.execute(sa.text(f'ALTER TABLE {table} DROP CONSTRAINT "{link}"'))
    for table in sorted(to_names - {*_OWN}):
        there.execute(sa.text(f'DELETE FROM "{table}"'))  # what an empty lab has made itself
    rows: Rows = {}
    for table in sorted(from_names - {*_OWN}):
        n = int(here.execute(sa.text(f'SELECT count(*) FROM "{table}"')).scalar() or 0)
        if not n:
            continue
        if table not in to_names:
            raise ConfigError(f"found {n} rows in the table {table} of {name}, which this version does not have")
        rows[table] = _copy(table, known.get(table), here, there, artifacts)
        arrived = there.execute(sa.text(f'SELECT count(*) FROM "{table}"')).scalar()
        if not n == rows[table] == arrived:
            raise StorageError(f"found {n} rows of {table}, copied {rows[table]}, and {arrived} arrived")
        say(f"{name} {table}: {n}")
    for table, link, definition in links:
        there.execute(sa.text(f'ALTER TABLE {table} ADD CONSTRAINT "{link}" {definition}'))
    _go_on_counting(there)
    return rows


def _tables(name: str) -> Sequence[sa.Table]:
    """Return the tables as the program itself describes them."""
    if name == "prefect":
        from prefect.server.database import orm_models

        return orm_models.Base.metadata.sorted_tables
    from mlflow.server.auth.db import models as accounts
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.model_registry.dbmodels import models as _registry  # noqa: F401
    from mlflow.store.tracking.dbmodels import models as _tracking  # noqa: F401

    return [*Base.metadata.sorted_tables, *accounts.Base.metadata.sorted_tables]


def _copy(name: str, known: sa.Table | None, here: sa.Connection, there: sa.Connection, artifacts: Path) -> int:
    """Copy the rows of a table and return their number."""
    from_columns = [str(column["name"]) for column in sa.inspect(here).get_columns(name)]
    to_columns = {str(column["name"]): column["type"] for column in sa.inspect(there).get_columns(name)}
    for lost in set(from_columns) - to_columns.keys():
        if here.execute(sa.text(f'SELECT count("{lost}") FROM "{name}"')).scalar():
            raise ConfigError(f"found values in {name}.{lost}, a column that this version does not have")
    names = [column for column in from_columns if column in to_columns]
    types = {column.name: column.type for column in known.columns} if known is not None else {}
    table = sa.Table(name, sa.MetaData(), *(sa.Column(n, _plain(types.get(n), to_columns[n])) for n in names))
    n_copied = 0
    found = here.execution_options(stream_results=True).execute(sa.select(table))
    for part in found.mappings().partitions(_BATCH):
        there.execute(table.insert(), [{key: _fitting(value, artifacts) for key, value in row.items()} for row in part])
        n_copied += len(part)
    return n_copied


def _plain(known: Any, there: Any) -> Any:
    """Return the type of a column under which its values pass as they are: models of Prefect as the JSON they are."""
    from prefect.server.utilities.database import JSON, Pydantic

    if isinstance(known, Pydantic):
        return JSON()
    return known if known is not None else there


def _fitting(value: Any, artifacts: Path) -> Any:
    """Return a value as PostgreSQL and the lab take it: without NUL, and files at their new place."""
    if isinstance(value, str):
        for start in (artifacts.as_uri(), str(artifacts)):
            if value == start or value.startswith(f"{start}/"):
                value = f"mlflow-artifacts:/{value.removeprefix(start).lstrip('/')}"
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {key: _fitting(one, artifacts) for key, one in value.items()}
    if isinstance(value, list):
        return [_fitting(one, artifacts) for one in value]
    return value


def _go_on_counting(there: sa.Connection) -> None:
    """Let the numbers that PostgreSQL gives itself begin behind those that are there."""
    owned = there.execute(_COUNTED).all()
    for table, column, counter in owned:
        if counter is not None:
            most = f'SELECT setval(:counter, coalesce((SELECT max("{column}") FROM "{table}"), 0) + 1, false)'
            there.execute(sa.text(most), {"counter": counter})
