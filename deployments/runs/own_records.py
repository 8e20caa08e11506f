"""Reads the runs that this home's database holds, where no server is up that could be asked."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from deployments.api import NO_SERVER, Api, Json, NotFoundError, connect
from deployments.runs.find import RUNNING, find_run
from deployments.services.database import database_up
from deployments.services.postgres import load
from deployments.stack.stack import known_stack, running_stack
from gpu_pools.slots.slot_files import is_locked
from tasks.base.errors import ConfigError, StorageError
from tasks.base.servers.database import uses_postgres
from tasks.base.workspace import home, run_path

T = TypeVar("T")
Rows = Callable[[str, Sequence[str]], list[Json]]
"""Answers a query with ? for each value; JSON and times are as the server's API has them."""

_RUNS = """
SELECT r.*, s.timestamp AS said_at, s.message AS said, t.flow_run_id AS parent, f.name AS flow_name
FROM flow_run r JOIN flow f ON f.id = r.flow_id
LEFT JOIN flow_run_state s ON s.id = r.state_id
LEFT JOIN task_run t ON t.id = r.parent_task_run_id
"""
_JSON = ("parameters", "job_variables", "labels", "data")
_TIMES = (
    *("created", "updated", "timestamp", "said_at"),
    *("start_time", "end_time", "expected_start_time", "next_scheduled_start_time"),
)
_NAMED = {"/flows/filter": "SELECT id, name FROM flow", "/deployments/filter": "SELECT * FROM deployment"}
"""Whole tables, of a few rows, whichever of them are asked for."""
_ORDERS: Mapping[str, tuple[Callable[[Json], str], bool]] = {
    "START_TIME_DESC": (lambda run: run["start_time"] or run["expected_start_time"] or "", True),
    "END_TIME_DESC": (lambda run: run["end_time"] or "", True),
    "EXPECTED_START_TIME_ASC": (lambda run: run["expected_start_time"] or "", False),
}


class Records(Api):
    """What a home's database of Prefect says, asked for as its server would be: by the paths that the commands read.

    Args:
        rows: of the database.
    """

    known_by = "host"

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.url = ""

    def page(self, run_id: str) -> str:
        """Return no address: no server shows it."""
        return ""

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Return what the server would answer to a GET.

        Raises:
            NotFoundError: there is no such thing.
        """
        kind, _, name = path.strip("/").partition("/")
        if kind == "flow_run_states":
            return self._rows("SELECT * FROM flow_run_state WHERE CAST(flow_run_id AS TEXT) = ?", [*params.values()])
        query = {"flow_runs": f"{_RUNS} WHERE CAST(r.id AS TEXT) = ?"}.get(kind)
        found = self._rows(query or "SELECT * FROM deployment WHERE CAST(id AS TEXT) = ?", [name])
        if not found:
            raise NotFoundError(f"found no run {name} in the records of {home()}")
        return _as_answered(found[0]) if query else found[0]

    def pages(self, path: str, body: Mapping[str, Any]) -> Iterator[Json]:
        """Yield every row of a filter, in its order."""
        if path in _NAMED:
            yield from self._rows(_NAMED[path], [])
        elif path == "/flow_runs/filter":
            key, backwards = _ORDERS[body["sort"]]
            found = [run for run in map(_as_answered, self._rows(_RUNS, [])) if _is_asked(run, body)]
            yield from sorted(found, key=key, reverse=backwards)
        elif path == "/artifacts/filter":
            kinds = body["artifacts"].get("type", {}).get("any_")
            rows = self._of_runs("artifact", "updated DESC", body["artifacts"])
            yield from (row for row in rows if kinds is None or row["type"] in kinds)
        else:
            yield from self._of_runs("log", "timestamp", body["logs"])

    def flow_names(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return flow id -> name."""
        return {row["id"]: row["name"] for row in self._rows(_NAMED["/flows/filter"], [])}

    def _of_runs(self, table: str, order: str, wanted: Mapping[str, Any]) -> list[Json]:
        ids = wanted["flow_run_id"]["any_"]
        places = ", ".join("?" * len(ids))
        return self._rows(
            f"SELECT * FROM {table} WHERE CAST(flow_run_id AS TEXT) IN ({places}) ORDER BY {order}", [*ids]
        )


def _as_answered(run: Json) -> Json:
    """Return a run as the server would answer; one whose process is gone, which nobody told the database, as that."""
    state = {"timestamp": run.pop("said_at"), "message": run.pop("said")}
    if run["state_type"] in RUNNING and _is_gone(run):
        state["message"] = f"its process is gone: `yard resume {run['parent'] or run['id']}` goes on"
        run |= {"state_type": "CRASHED", "state_name": "Crashed"}
    elif run["start_time"] and run["end_time"] and not state["message"]:
        started, ended = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
        state["message"] = f"took {(ended - started).total_seconds():.0f} s"
    state |= {"type": run["state_type"], "name": run["state_name"]}
    return {**run, "state": state, "total_run_time": _run_time(run["total_run_time"])}


def _run_time(value: Any) -> float:
    """Return seconds; SQLite keeps them as a time of 1970's first days."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value).replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)
    return float(value.total_seconds())


def _is_gone(run: Json) -> bool:
    """Return whether no process holds a run; a stage within its pipeline's process has no lock of its own."""
    folders = filter(None, (run_path(run["id"]), run_path(run["parent"])))
    lock = next((path for path in (folder / "lock" for folder in folders) if path.exists()), None)
    return lock is not None and not is_locked(lock)


def _is_asked(run: Json, body: Mapping[str, Any]) -> bool:
    """Return whether a run passes a filter of the few kinds that the commands use."""
    wanted = body.get("flow_runs", {})
    due, window = run["expected_start_time"] or "", wanted.get("expected_start_time", {})
    named = {
        "state_type": wanted.get("state", {}).get("type", {}).get("any_"),
        "state_name": wanted.get("state", {}).get("name", {}).get("any_"),
        "name": wanted.get("name", {}).get("any_"),
        "parent": wanted.get("parent_flow_run_id", {}).get("any_"),
        "flow_name": body.get("flows", {}).get("name", {}).get("any_"),
    }
    is_due = window.get("after_", "") <= due <= window.get("before_", "~")  # times of one form sort as texts
    if (after := wanted.get("end_time", {}).get("after_")) and (run["end_time"] or "") < after:
        return False
    if wanted.get("start_time", {}).get("is_null_") is False and not run["start_time"]:
        return False
    return is_due and all(values is None or run[name] in values for name, values in named.items())


@contextmanager
def server_or_records() -> Iterator[Api]:
    """Yield the server's API, or, where none is up, the records that this home's runs have left.

    Raises:
        ConfigError: there is neither.
        ServiceError: the home's PostgreSQL does not start.
        StorageError: the records cannot be read.
    """
    if os.environ.get("PREFECT_API_URL") or running_stack():
        with connect() as api:
            yield api
    elif uses_postgres():
        with database_up(make=False), _postgres() as rows:
            yield Records(rows)
    elif database_file().is_file():
        with _sqlite() as rows:
            yield Records(rows)
    else:
        raise ConfigError(f"{NO_SERVER}; and no run has left records in {home()}")


@contextmanager
def found_anywhere(wanted: str, *, ended: bool = False) -> Iterator[tuple[Api, Json]]:
    """Yield a run, and who knows it: the server, else the records of this home; `ended` as for `find_run`.

    Raises:
        NotFoundError: nobody knows it.
        ConfigError: there are several, or neither a server nor records.
        ServiceError: as `server_or_records`.
        StorageError: as `server_or_records`.
    """
    with server_or_records() as api, _beside(api) as own:
        try:
            found = api, find_run(api, wanted, ended=ended)
        except NotFoundError:
            if own is None:
                raise
            found = own, find_run(own, wanted, ended=ended)
        yield found


def only_here(api: Api, read: Callable[[Api], list[T]], id_of: Callable[[T], str]) -> list[T]:
    """Return the runs of this home that its server, which is another one's, does not know.

    Args:
        api: of the server.
        read: returns the runs of a list.
        id_of: returns the id of one.
    """
    with _beside(api) as own:
        rows = read(own) if own else []
    if not rows:
        return []
    known = api.pages("/flow_runs/filter", {"flow_runs": {"id": {"any_": [id_of(row) for row in rows]}}})
    ids = {run["id"] for run in known}
    return [row for row in rows if id_of(row) not in ids]


@contextmanager
def _beside(api: Api) -> Iterator[Records | None]:
    """Yield the records of this home; None where the server reads the same ones, or PostgreSQL would have to start."""
    if isinstance(api, Records) or uses_postgres() or not database_file().is_file() or known_stack():
        yield None
    else:
        with _sqlite() as rows:
            yield Records(rows)


def database_file() -> Path:
    """Return the file in which Prefect keeps the runs of a home without PostgreSQL."""
    return Path(os.environ.get("PREFECT_HOME", home() / "prefect")) / "prefect.db"


@contextmanager
def _sqlite() -> Iterator[Rows]:
    path = database_file()
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            yield lambda query, values: [_plain(_parsed(dict(row))) for row in database.execute(query, values)]
    except sqlite3.Error as exc:
        raise StorageError(f"cannot read {path}: {exc}; it holds the runs of this home") from exc


@contextmanager
def _postgres() -> Iterator[Rows]:
    import psycopg
    from psycopg.rows import dict_row

    address = load().url("psycopg", "prefect").replace("postgresql+psycopg", "postgresql")
    try:
        with psycopg.connect(address, row_factory=dict_row, autocommit=True) as database:

            def rows(query: str, values: Sequence[str]) -> list[Json]:
                answer = database.execute(query.replace("?", "%s").encode(), values)
                return [_plain(row) for row in answer]

            yield rows
    except psycopg.Error as exc:
        raise StorageError(f"cannot read the PostgreSQL of {home()}: {exc}; it holds the runs of this home") from exc


def _parsed(row: Json) -> Json:
    """Return a row of SQLite, which keeps JSON as text, and makes a number of a text that is one."""
    return {
        name: json.loads(value) if name in _JSON and isinstance(value, str) else value for name, value in row.items()
    }


def _plain(row: Json) -> Json:
    """Return a row with ids and times as texts; SQLite keeps times without their zone."""
    for name, value in row.items():
        if name in _TIMES and value is not None:
            at = datetime.fromisoformat(value) if isinstance(value, str) else value
            row[name] = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
        elif isinstance(value, UUID):
            row[name] = str(value)
    return row
