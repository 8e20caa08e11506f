"""Writes down what a run could not do because MLflow was away, so that it is done later."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.base.errors import StorageError
from tasks.base.workspace import home, run_dir, write_json

_FILE = "postponed.json"


@dataclass(frozen=True, slots=True)
class Postponed:
    """A flow that is to run again for a run whose own work is done."""

    run: str  # whose folder it works in
    flow: str
    parameters: dict[str, Any]  # of the flow, as JSON
    why: str
    number: int  # of the attempt: nanoseconds since 1970


def settle_postponed(run: str, why: str, flow: str, parameters: Mapping[str, Any]) -> str:
    """Note that a flow is to run again, or, where nothing was postponed, that it need not; return that as Markdown.

    Args:
        run: name of the folder that the flow works in.
        why: it could not do all; empty: it could.
        flow: its name.
        parameters: to run it with: models, paths, texts.
    """
    path = run_dir(run) / _FILE
    if not why:
        path.unlink(missing_ok=True)
        return ""
    plain = {name: _plain(value) for name, value in parameters.items()}
    write_json(path, asdict(Postponed(run, flow, plain, why, time.time_ns())))
    return (
        f"\n**Not registered yet**, as MLflow is away: {why}\n\nThe worker does it when MLflow answers again; "
        f"`yard sync {run}` does it at once.\n"
    )


def find_postponed(run: str | None = None) -> list[Postponed]:
    """Return what runs of this home have postponed.

    Args:
        run: only this one; None: all.

    Raises:
        StorageError: a file is damaged.
    """
    found = []
    for path in sorted((home() / "runs").glob(f"{run or '*'}/{_FILE}")):
        try:
            found.append(Postponed(**json.loads(path.read_bytes())))
        except FileNotFoundError:
            continue  # done in between
        except (ValueError, TypeError) as exc:
            raise StorageError(f"cannot read {path}: need what a run has postponed ({exc}); remove it") from exc
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value) if isinstance(value, Path) else value
