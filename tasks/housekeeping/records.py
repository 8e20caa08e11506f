"""Asks Prefect's server about runs, and removes its records of them."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client

from gpu_pools.names import PINNED
from gpu_pools.prefect_pages import read_pages

KEEP = "keep_files"
"""Job variable: so long after a run's end its folder stays, 12h or 7d."""

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
_LIVING = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
_BULK_DELETE: Any = "/flow_runs/bulk_delete"  # which the types of Prefect's client do not know
_IDS, _DELETED = 500, 50  # in one request: SQLite bounds the first, Prefect the second


@dataclass(frozen=True, slots=True)
class Record:
    """A run as Prefect has it.

    Args:
        state: RUNNING, COMPLETED ...
        ended: Unix seconds; None while it lives.
        keep_files: as the run, else its deployment asks; empty where neither does.
        parameters: as JSON, in which the folders that it reads are named.
        local: it was started by `yard run`: no worker looks after it.
    """

    id: str
    name: str
    state: str
    ended: float | None
    keep_files: str
    pinned: bool
    parameters: str
    local: bool

    @property
    def over(self) -> bool:
        """Whether it has ended, and does not wait for another attempt."""
        return self.state in ENDED and self.ended is not None


class Records:
    """Prefect's API by the calls that housekeeping needs; each raises httpx errors when it does not answer."""

    def __init__(self) -> None:
        self._client: SyncPrefectClient = get_client(sync_client=True)
        self._kept: dict[str, str] = {}

    def by_id(self, ids: Sequence[str]) -> dict[str, Record]:
        """Return runs by their ids, without those that Prefect does not know."""
        found: dict[str, Record] = {}
        for start in range(0, len(ids), _IDS):
            found |= {record.id: record for record in self._read({"id": {"any_": list(ids[start : start + _IDS])}})}
        return found

    def living(self) -> list[Record]:
        """Return the runs that have not ended: they run, wait, or are put down for later."""
        return list(self._read({"state": {"type": {"any_": list(_LIVING)}}}))

    def pinned(self) -> list[Record]:
        """Return the runs that are pinned."""
        return list(self._read({"tags": {"all_": [PINNED]}}))

    def stages(self, ids: Collection[str]) -> list[Record]:
        """Return the runs that these have started."""
        return list(self._read({"parent_flow_run_id": {"any_": sorted(ids)}})) if ids else []

    def ended_before(self, moment: float) -> list[Record]:
        """Return the runs that ended before a time, Unix seconds."""
        ended = {"before_": datetime.fromtimestamp(moment, UTC).isoformat()}
        return list(self._read({"state": {"type": {"any_": list(ENDED)}}, "end_time": ended}))

    def delete(self, ids: Sequence[str], say: Callable[[str], object]) -> None:
        """Remove records that are still at their end, with their logs; `say` is told the id of each that is gone."""
        over = {"state": {"type": {"any_": list(ENDED)}}}
        for start in range(0, len(ids), _DELETED):
            body = {"flow_runs": {"id": {"any_": list(ids[start : start + _DELETED])}, **over}}
            for gone in self._client.request("POST", _BULK_DELETE, json=body).json()["deleted"]:
                say(str(gone))

    def _read(self, flow_runs: Mapping[str, Any]) -> Iterator[Record]:
        def ask(page: dict[str, Any]) -> list[Mapping[str, Any]]:
            return list(self._client.request("POST", "/flow_runs/filter", json=page).json())

        for row in read_pages(ask, {"flow_runs": flow_runs, "sort": "ID_DESC"}):
            yield self._record(row)

    def _record(self, row: Mapping[str, Any]) -> Record:
        state = (row["state"] or {}).get("type", "")
        ended = row["end_time"]
        own = (row["job_variables"] or {}).get(KEEP)
        return Record(
            id=row["id"],
            name=row["name"],
            state=state,
            ended=datetime.fromisoformat(ended).timestamp() if ended else None,
            keep_files=str(own or self._default(row["deployment_id"])),
            pinned=PINNED in row["tags"],
            parameters=json.dumps(row["parameters"]) if state not in ENDED else "",
            local=row["deployment_id"] is None,
        )

    def _default(self, deployment: str | None) -> str:
        """Return what a deployment asks for; thousands of runs are of a few."""
        if deployment is None:
            return ""
        if deployment not in self._kept:
            body = {"deployments": {"id": {"any_": [deployment]}}, "limit": 1}
            rows = self._client.request("POST", "/deployments/filter", json=body).json()
            self._kept[deployment] = str((rows[0]["job_variables"] or {}).get(KEEP) or "") if rows else ""
        return self._kept[deployment]
