"""Writes down what a run could not do because MLflow was away, so that it is done later."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.base.errors import StorageError
from tasks.base.workspace import home, run_dir, write_json

# As run_log has it, which imports Prefect; `yard status` and `yard doctor` read this file in no time.
Logger = logging.Logger | logging.LoggerAdapter[Any]

_FILE = "postponed.json"
_AGAIN_S, _LONGEST_S = 30.0, 3600.0


@dataclass(frozen=True, slots=True)
class Postponed:
    """A flow that is to run again for a run whose own work is done."""

    run: str  # whose folder it works in
    flow: str
    parameters: dict[str, Any]  # of the flow, as JSON
    why: str
    attempts: int  # so far, in vain
    since: float  # the last one, Unix seconds

    @property
    def due(self) -> float:
        """When it is to be tried again without being asked, Unix seconds: MLflow may answer and still not take it."""
        return self.since + min(_AGAIN_S * 2 ** (self.attempts - 1), _LONGEST_S)


def settle_postponed(run: str, why: str, flow: str, parameters: Mapping[str, Any], log: Logger) -> str:
    """Note that a flow is to run again, or, where nothing was postponed, that it need not; return that as Markdown.

    Args:
        run: name of the folder that the flow works in.
        why: it could not do all; empty: it could.
        flow: its name.
        parameters: to run it with: models, paths, texts.
        log: told, too.
    """
    path = run_dir(run) / _FILE
    before = find_postponed(run)
    if not why:
        path.unlink(missing_ok=True)
        return ""
    plain = {name: _plain(value) for name, value in parameters.items()}
    attempts = 1 + sum(one.attempts for one in before)
    write_json(path, asdict(Postponed(run, flow, plain, why, attempts, time.time())))
    who = f"the worker does it when MLflow answers again, `yard sync {run}` at once"
    log.warning("the model is not registered yet, as MLflow is away: %s", who)
    return f"\n**Not registered yet**, as MLflow is away: {why}\n\nLater: {who}.\n"


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
