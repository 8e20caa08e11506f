"""Says which database a home uses: SQLite files, or the PostgreSQL of `yard up`."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Literal

from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import home, storage_errors

Kind = Literal["sqlite", "postgres"]


def database_file() -> Path:
    """Return the file that says where this home's PostgreSQL is; there is none while the home has none."""
    return home() / "database.json"


def forced_kind() -> Kind | None:
    """Return what TRAINYARD_DATABASE asks for, None where it is not set.

    Raises:
        ConfigError: it is neither sqlite nor postgres.
    """
    match os.environ.get("TRAINYARD_DATABASE", ""):
        case "":
            return None
        case "sqlite":
            return "sqlite"
        case "postgres":
            return "postgres"
        case other:
            raise ConfigError(f"found TRAINYARD_DATABASE={other!r}, need sqlite or postgres")


def postgres_record() -> dict[str, str]:
    """Return where this home's PostgreSQL is: `data`, `major`, and the URLs `prefect` and `mlflow`; else nothing.

    Raises:
        StorageError: the file is damaged.
    """
    path = database_file()
    if not path.is_file():
        return {}
    try:
        record: dict[str, str] = json.loads(path.read_text())
        return {name: record[name] for name in ("data", "major", "prefect", "mlflow")}
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageError(f"cannot read {path}: need the place of this home's PostgreSQL; restore it") from exc


def uses_postgres() -> bool:
    """Return whether the runs of this home are in PostgreSQL."""
    return forced_kind() != "sqlite" and bool(postgres_record())


def mlflow_uri() -> str:
    """Return MLflow's database of this home; a file of SQLite is made if missing.

    Raises:
        ConfigError: PostgreSQL is asked for, and this home has none yet.
        StorageError: the file cannot be made.
    """
    if uses_postgres():
        return postgres_record()["mlflow"]
    if forced_kind() == "postgres":
        raise ConfigError(f"found TRAINYARD_DATABASE=postgres, but no PostgreSQL in {home()}: `yard up` makes it")
    path = home() / "mlflow" / "mlflow.db"
    with storage_errors(path):
        (path.parent / "artifacts").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with sqlite3.connect(path) as database:
                # Stays with the file. Several writers at once: 357 metrics a second against 46 without it.
                database.execute("PRAGMA journal_mode=WAL")
            database.close()
    return f"sqlite:///{path}"
