"""Reads from Prefect's server what runs have done since the last look, each look a little before the one before."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from deployments.notices.run_notices import how_it_ended, started_late
from deployments.runs.prefect_http import Ask, paged
from gpu_pools.placement.queues import parse_duration
from gpu_pools.sharing.notices import Notice, folder
from gpu_pools.sharing.settings import YardSettings
from tasks.base.errors import StorageError
from tasks.base.workspace import storage_errors, write_json

SETTLED_S = 2.0
"""A last state that stood for so long stays: what goes on at once, by a retry of Prefect's own, is not told."""

_OVERLAP_S = 60.0  # states are written a moment after their time
_OLDEST_S = 86_400.0  # after a day off nobody needs to be told
_ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]


class RunWatch:
    """Finds what there is to say of runs. What it finds twice has the same id, and is left once.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._defaults: dict[str, Mapping[str, Any]] = {}

    def look(self, call: Ask, settings: YardSettings) -> list[Notice]:
        """Return what there is to say since the last look that was `kept`; the first one begins now.

        Raises:
            ServiceError: the server does not answer.
            StorageError: what was kept is damaged.
        """
        now = self._clock()
        since = max(_read_since() or now, now - _OLDEST_S) - _OVERLAP_S
        ended = {"end_time": {"after_": _iso(since), "before_": _iso(now - SETTLED_S)}}
        started = {"start_time": {"after_": _iso(since)}, "state": {"type": {"any_": ["RUNNING"]}}}
        waited_s = parse_duration(settings.notices.waited)
        found = [how_it_ended(run) for run in self._runs(call, {**ended, "state": {"type": {"any_": _ENDED}}})]
        found += [started_late(run, waited_s) for run in self._runs(call, started)]
        return [notice for notice in found if notice is not None]

    def keep(self) -> None:
        """Note that all of the last look was left: the next one, also of another process, begins here.

        Raises:
            StorageError: it cannot be written.
        """
        path = _file()
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(path, {"since": self._clock()})

    def _runs(self, call: Ask, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for run in paged(call, "/flow_runs/filter", {"flow_runs": wanted, "sort": "START_TIME_ASC"}):
            given = {name: value for name, value in (run["job_variables"] or {}).items() if value is not None}
            yield {**run, "job_variables": {**self._of_deployment(call, run["deployment_id"]), **given}}

    def _of_deployment(self, call: Ask, deployment: str | None) -> Mapping[str, Any]:
        """Return the job variables of a deployment, among them the owner of what a schedule makes."""
        if deployment is None:
            return {}
        if deployment not in self._defaults:
            found = call("POST", "/deployments/filter", {"deployments": {"id": {"any_": [deployment]}}})
            self._defaults[deployment] = (found[0]["job_variables"] or {}) if found else {}
        return self._defaults[deployment]


def _file() -> Any:
    return folder() / "watch.json"


def _read_since() -> float | None:
    path = _file()
    try:
        return float(json.loads(path.read_text())["since"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageError(f"cannot read {path}: need the time of the last look; remove it") from exc


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
