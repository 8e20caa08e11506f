"""Reads from Prefect who had which device for how long."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx

from gpu_pools.names import (
    DEVICE_LABEL,
    FROM_PAGE,
    FROM_SCHEDULE,
    HOST_LABEL,
    KIND_LABEL,
    OWNER_LABEL,
    WAITED_LABEL,
    named_owner,
)
from gpu_pools.placement.queues import KINDS, POOL, Kind, device_tags, queue_of, queue_or_none
from gpu_pools.slots.use import NO_USE, SlotUse

logger = logging.getLogger("trainyard.worker")

WINDOW_S = 35 * 86400.0
"""Runs that ended longer ago count for nothing: with a half-life of a week 3 % of them would be left."""

EVERY_S = 60.0

_MARGIN_S = 120.0  # an end is written some time after it is dated, and clocks of hosts differ
_FIRST_WAIT_S = 5.0
_ALIVE = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED")

Row = Mapping[str, Any]


class Pages(Protocol):
    """Reads filters of Prefect's API: `PoolClient`, the commands' `Api`, or the records of a home without a server."""

    def pages(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """Yield every row of a filter, as the API has them."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one run has had of one device, as Prefect knew it when it was read; times in Unix seconds.

    Pipelines have none, as they only wait; their stages have. A run that was resumed is one Use, from its first start.

    Args:
        run_id, run_name: of the flow run.
        owner: user@host; FROM_PAGE or FROM_SCHEDULE of `gpu_pools.names` where nobody said so.
        flow, flow_id, deployment: their names, and the flow's id; the deployment of `yard run` is "".
        device: that it has, or had last: cuda:0, cpu; cuda:0,cuda:2 where it has several; "cuda" where it is unknown
            which GPU it was.
        host: of the device; "" where it is unknown.
        kind: of the work.
        asked: the run was due; of `yard run`, it was typed.
        began: it held a device first. Of `yard run` where it waited: its start and what it waited in all.
        ended: it came to its last state; None: it runs, or waits to go on.
        state, state_name: type and name of its state: COMPLETED, RUNNING ...; Completed, TimedOut, Waiting ...
        ran_s: how long it ran up to `until`, all attempts together, without the waiting before and between them.
        until: its end; of one that runs, when it was read; of one that waits to go on, when it was put back.
        slot: how it used the slot, as it has told at its end.
        queue: that it came from: cuda.training, boxb.cuda:1.inference ...; of `yard run`, "".
    """

    run_id: str
    run_name: str
    owner: str
    flow: str
    deployment: str
    device: str
    host: str
    kind: Kind
    asked: float
    began: float
    ended: float | None
    state: str
    state_name: str
    ran_s: float
    until: float
    flow_id: str = ""
    slot: SlotUse = NO_USE
    queue: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    @property
    def n_devices(self) -> int:
        """How many devices it has, or had last; each counts for all of the time."""
        return max(1, len(device_tags(self.device)))

    @property
    def device_s(self) -> float:
        """The seconds of all its devices together."""
        return self.n_devices * self.ran_s

    @property
    def running(self) -> bool:
        """Whether the run has its device now, as far as Prefect knows."""
        return self.state == "RUNNING" and self.state_name != "Waiting"

    def at(self, now: float) -> "Use":
        """Return the use as it is at a later time, if nothing but time has passed; `now` in Unix seconds."""
        if not self.running or now <= self.until:
            return self
        return replace(self, ran_s=self.ran_s + now - self.until, until=now)


def read_uses(client: Pages, since: float) -> list[Use]:
    """Return what the runs that ended since then, or have not ended, had of devices; those that began first, first.

    A run that ended counts whole, also what it ran before `since`. A run that has not begun is none.

    Args:
        client: of Prefect's server.
        since: Unix seconds.

    Raises:
        httpx.HTTPError: `PoolClient`, where the server does not answer; other clients raise their own errors.
    """
    now = time.time()
    ended = {"end_time": {"after_": datetime.fromtimestamp(since, UTC).isoformat()}}
    alive = {"state": {"type": {"any_": list(_ALIVE)}}, "start_time": {"is_null_": False}}
    # In this order: a run that ends between the two is found by one of them at least.
    rows = {row["id"]: row for wanted in (alive, ended) for row in _runs(client, wanted)}
    held = [row for row in rows.values() if _has_begun(row) and _has_device(row)]
    flows = _by_id(client, "flows", [row["flow_id"] for row in held])
    deployments = _by_id(client, "deployments", [row["deployment_id"] for row in held if row["deployment_id"]])
    uses = [_use(row, flows.get(row["flow_id"]), deployments.get(row["deployment_id"]), now) for row in held]
    return sorted(uses, key=lambda use: use.began)


class UsageReader:
    """Keeps the uses of the last five weeks at hand; a thread reads what has changed, so nobody waits for Prefect.

    Where Prefect does not answer, what was read last holds on, with the time that has passed added to what runs.

    Args:
        client: of Prefect's server; used from another thread, too.
        clock: Unix seconds.
        every_s: seconds between two readings.
    """

    def __init__(self, client: Pages, clock: Callable[[], float] = time.time, every_s: float = EVERY_S) -> None:
        self._client, self._clock, self._every_s = client, clock, every_s
        self._known: Mapping[str, Use] = {}
        self._tried_at = self._read_at = float("-inf")
        self._thread: threading.Thread | None = None

    @property
    def read_at(self) -> float:
        """When what is known was read, Unix seconds; -inf: not yet. While that stays, no use has ended."""
        return self._read_at

    def uses(self) -> list[Use]:
        """Return the uses as far as they are known, and begin to read on where that is due; those begun first, first.

        Only the first call waits for the reading, a few seconds at most.
        """
        now = self._clock()
        if now - self._tried_at >= self._every_s and (self._thread is None or not self._thread.is_alive()):
            first, self._tried_at = self._thread is None, now
            # Prefect's settings of the caller (password, time limits) are part of its context.
            run = contextvars.copy_context().run
            self._thread = threading.Thread(target=run, args=(self._read, now), name="usage", daemon=True)
            self._thread.start()
            if first:
                self._thread.join(_FIRST_WAIT_S)
        return [use.at(now) for use in self._known.values()]

    def _read(self, now: float) -> None:
        since = max(now - WINDOW_S, self._read_at - _MARGIN_S)
        try:
            found = read_uses(self._client, since)
        except httpx.HTTPError as exc:
            logger.warning("cannot read who had which device: %s; what was known before holds", exc)
            return
        # What had not ended and is not found any more was deleted.
        kept = [use for use in self._known.values() if use.ended is not None and use.ended > now - WINDOW_S]
        uses = {use.run_id: use for use in [*kept, *found]}
        self._known = dict(sorted(uses.items(), key=lambda item: item[1].began))
        self._read_at = now


def _runs(client: Pages, wanted: Mapping[str, Any]) -> Iterator[Row]:
    yield from client.pages("/flow_runs/filter", {"flow_runs": wanted, "sort": "END_TIME_DESC"})


def _by_id(client: Pages, kind: str, ids: Collection[str]) -> dict[str, Row]:
    if not ids:
        return {}
    return {row["id"]: row for row in client.pages(f"/{kind}/filter", {kind: {"id": {"any_": sorted(set(ids))}}})}


def _has_begun(row: Row) -> bool:
    """Return whether a run ever ran; Prefect gives one that was cancelled before a start, which is its end."""
    return bool(row["start_time"]) and (row["end_time"] is None or row["total_run_time"] > 0)


def _has_device(row: Row) -> bool:
    """Return whether a run has, or had, a slot to compute on: it wears the label, or comes from a queue of the pool."""
    queue = queue_or_none(queue_of(row)) if row.get("work_pool_name", POOL) == POOL else None
    return queue.kind != "pipeline" if queue else DEVICE_LABEL in (row["labels"] or {})


def _use(row: Row, flow: Row | None, deployment: Row | None, now: float) -> Use:
    labels, queue = row["labels"] or {}, queue_or_none(queue_of(row))
    state, waited_s = row["state"] or {}, float(labels.get(WAITED_LABEL, 0.0))
    running = state.get("type") == "RUNNING" and state.get("name") != "Waiting"  # `yard run` waits so
    ended = _seconds(row["end_time"])
    told_at = _seconds(state.get("timestamp")) or now
    began = min((_seconds(row["start_time"]) or told_at) + waited_s, ended or now)
    ran_s = float(row["total_run_time"] or 0.0) + (max(0.0, now - told_at) if running else 0.0) - waited_s
    return Use(
        run_id=row["id"],
        run_name=row["name"],
        owner=_owner(row, labels, deployment or {}),
        flow=(flow or {}).get("name", ""),
        deployment=(deployment or {}).get("name", ""),
        device=str(labels.get(DEVICE_LABEL) or (queue.device if queue else "")),
        host=str(labels.get(HOST_LABEL) or (queue.host if queue else None) or ""),
        kind=queue.kind if queue else _kind(labels),
        asked=_seconds(row["expected_start_time"]) or began,
        began=began,
        ended=ended,
        state=state.get("type") or "",
        state_name=state.get("name") or "",
        ran_s=max(0.0, ran_s),
        until=now if running else ended or told_at,
        flow_id=row["flow_id"],
        slot=SlotUse.of(labels) if ended else NO_USE,
        queue=queue_of(row),
    )


def _kind(labels: Mapping[str, Any]) -> Kind:
    """Return the kind of a run of `yard run`; one of a version that did not write it down counts as training."""
    return next((kind for kind in KINDS if kind == labels.get(KIND_LABEL)), "training")


def _owner(row: Row, labels: Mapping[str, Any], deployment: Row) -> str:
    own = {name: value for name, value in (row["job_variables"] or {}).items() if value is not None}
    named = named_owner({**(deployment.get("job_variables") or {}), **own}, row["parameters"] or {})
    return named or str(labels.get(OWNER_LABEL) or (FROM_SCHEDULE if row["auto_scheduled"] else FROM_PAGE))


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
