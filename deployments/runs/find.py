"""Finds runs on the server, and reads their logs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from deployments.api import Api, Json, NotFoundError
from deployments.cli.terminal.progress import RunProgress, read_progress
from deployments.sharing.permissions import ME, is_same, run_owner
from gpu_pools.hosts.offers import SHARE_LABEL
from gpu_pools.names import DEVICE_LABEL, HOST_LABEL, IDLE_LABEL, SHORT_ID, asker, host_name, is_called, is_id, short_id
from gpu_pools.placement.queues import QueueError, device_tags, parse_queue, queue_of
from gpu_pools.prefect_pages import PAGE
from gpu_pools.slots.use import SlotUse
from tasks.base.errors import ConfigError

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WAITING = ("SCHEDULED", "PAUSED")
RUNNING = ("PENDING", "RUNNING", "CANCELLING")
NOBODY_LOOKED = "no worker has looked at it yet"

_SHORTEST_ID = 4


def find_run(api: Api, wanted: str, *, ended: bool = False) -> Json:
    """Return the run that is called `wanted`, or whose id or beginning or short id it is; a stage also as RUN/FLOW.

    Args:
        api: of the server.
        wanted: as people write it.
        ended: of several of one name the only one that has ended is meant, else the only one that lives.

    Raises:
        NotFoundError: there is none.
        ConfigError: there are several.
    """
    try:
        return dict(api.call("GET", f"/flow_runs/{UUID(wanted)}"))
    except ValueError:
        pass  # no full id
    except NotFoundError as exc:
        raise NotFoundError(f"found no run {wanted}") from exc
    runs = list(api.pages("/flow_runs/filter", {"flow_runs": {"name": {"any_": [wanted]}}, "sort": "START_TIME_DESC"}))
    if not runs and re.fullmatch(f"[0-9a-f-]{{{_SHORTEST_ID},35}}", wanted):
        runs = _by_part_of_id(api, wanted)
    if not runs and "/" in wanted:
        runs = _stages_of_flow(api, *wanted.rsplit("/", 1))
    runs = [run for run in runs if run["parent_task_run_id"] is None] or runs  # stages are called like their pipeline
    if not runs:
        raise NotFoundError(
            f"found no run {wanted!r}: need its id, the first 4 or more characters of it, its short id, or its name"
        )
    fitting = [run for run in runs if (run["state_type"] in ENDED) == ended]
    if len(runs) > 1 and len(fitting) != 1:
        listed = "; ".join(f"{run['id']} {run['name']} ({run['state_name']})" for run in (fitting or runs)[:5])
        n, more = len(fitting or runs), " ..." if len(fitting or runs) > 5 else ""
        raise ConfigError(f"found {n} runs for {wanted!r}, need one: {listed}{more}")
    return fitting[0] if fitting else runs[0]


def _stages_of_flow(api: Api, wanted: str, flow: str) -> list[Json]:
    """Return the stages of a run that are of a flow; none where there is no such run."""
    try:
        stages = children(api, find_run(api, wanted)["id"])
    except NotFoundError:
        return []
    names = api.flow_names([stage["flow_id"] for stage in stages])
    return [stage for stage in stages if names[stage["flow_id"]] == flow]


def named_like(api: Api, beginning: str, most: int) -> list[Json]:
    """Return the newest runs of people whose name, or among the newest of all whose id, begins so.

    Args:
        api: of the server.
        beginning: empty: any.
        most: so many of each.
    """
    order = {"sort": "START_TIME_DESC", "limit": most}
    body = {"flow_runs": {"parent_task_run_id": {"is_null_": True}, "name": {"like_": beginning}}, **order}
    return [*api.call("POST", "/flow_runs/filter", body), *api.call("POST", "/flow_runs/filter", order)]


def _by_part_of_id(api: Api, part: str) -> list[Json]:
    found: list[Json] = []
    for n, run in enumerate(api.pages("/flow_runs/filter", {"sort": "START_TIME_DESC"}), start=1):
        if is_id(run["id"], part):
            found.append(run)
        if found and len(part) >= SHORT_ID and n % PAGE == 0:
            break  # the rest of a long history need not be read
    return found


def children(api: Api, run_id: str) -> list[Json]:
    """Return the runs that a run has started, the stages of a pipeline, oldest first."""
    wanted = {"parent_flow_run_id": {"any_": [run_id]}}
    found = api.pages("/flow_runs/filter", {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC"})
    return sorted(found, key=lambda run: str(run["created"]))


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list; the fields are the keys of `--json`.

    Args:
        id, name, flow: of the run.
        short: eight characters of the id, which every command takes for the whole.
        owner: user@host; empty for a run started on Prefect's page.
        device: it has, or had; before it starts, the one it asked for.
        queue: it waits in or came from; empty for `yard run`.
        priority: 1 (first) to 10; None: the default of its kind.
        type: SCHEDULED, PENDING, RUNNING, CANCELLING, PAUSED, COMPLETED, FAILED, CRASHED or CANCELLED.
        state: its name: Waiting, Running, TimedOut ...
        since: it is due, runs, or ended; ISO 8601.
        message: the sentence why it waits, or how it ended.
        epoch, n_epochs: it is at, of.
        percent: of the work, 0 to 100.
        remaining_s: about; seconds.
        last_epoch: the metrics of the last epoch that ended, while the run runs.
        unit: what is counted: epoch, step, image ...
        held_s: for how long it held its device, seconds; this and the next four once it has ended.
        first_batch_s: from the slot to the end of the first batch.
        gpu_busy_share: mean of the GPU's utilisation meanwhile, 0 to 1.
        energy_wh: its share of what the GPU drew.
        peak_memory_mib: the most device memory that its processes had.
        known_by: `server`; or `host`: by the records of this host alone, as after `yard run`.
    """

    id: str
    short: str
    name: str
    flow: str
    owner: str
    device: str
    queue: str
    priority: int | None
    type: str
    state: str
    since: str
    message: str
    epoch: int | None = None
    n_epochs: int | None = None
    percent: float | None = None
    remaining_s: float | None = None
    last_epoch: Json | None = None
    unit: str = "epoch"
    held_s: float | None = None
    first_batch_s: float | None = None
    gpu_busy_share: float | None = None
    energy_wh: float | None = None
    peak_memory_mib: float | None = None
    known_by: str = "server"

    @property
    def over(self) -> bool:
        """Whether the run is at its end."""
        return self.type in ENDED


def list_runs(
    api: Api,
    *,
    types: Sequence[str] = (),
    scheduled: bool = False,
    later: bool = True,
    flow: str | None = None,
    owner: str | None = None,
    limit: int = 20,
) -> list[RunRow]:
    """Return runs in the order in which people look for them, see `_groups`.

    Args:
        types: of states; empty: all.
        scheduled: only those that are due later.
        later: off: without those.
        flow: its name; None: of any, without the rounds of housekeeping and the reports that went well.
        owner: `anna`, `anna@boxa`, or `me`.
        limit: so many at most.
    """
    found: list[Json] = []
    for body in _groups(types, scheduled, datetime.now(UTC), with_later=later):
        if flow:
            body["flows"] = {"name": {"any_": [flow]}}
        for run in api.pages("/flow_runs/filter", body):
            if len(found) == limit:
                break
            if (owner is None or is_of(run, owner)) and (flow or not _is_routine(run)):
                found.append(run)
    return make_rows(api, found)


def _is_routine(run: Json) -> bool:
    """Return whether a run is one of housekeeping, or a report, that went well: 25 a day would hide what people run."""
    routine = run["auto_scheduled"] and run["state_type"] == "COMPLETED"
    return bool(routine) and (run["work_queue_name"] or "").endswith(".housekeeping")


def _groups(types: Sequence[str], scheduled: bool, now: datetime, *, with_later: bool) -> list[Json]:
    """Return what to ask for, one after the other: what runs, what waits by when it was due, what has ended (the
    newest first), and what a schedule or `--at` has put down for later (the next first)."""
    waits = [kind for kind in WAITING if not types or kind in types]
    later = _asked(waits, "EXPECTED_START_TIME_ASC", {"after_": now.isoformat()})
    if scheduled:
        return [later]
    due = _asked(waits, "EXPECTED_START_TIME_ASC", {"before_": now.isoformat()})
    runs = [kind for kind in RUNNING if not types or kind in types]
    run = _asked(runs, "START_TIME_DESC")
    here = _asked(["RUNNING"] if waits and not runs else [], "EXPECTED_START_TIME_ASC")
    here["flow_runs"]["state"]["name"] = {"any_": ["Waiting"]}  # in a terminal, among those that run
    ended = _asked([kind for kind in ENDED if not types or kind in types], "END_TIME_DESC")
    groups = [run, here, due, ended, *([later] if with_later else [])]
    return [body for body in groups if body["flow_runs"]["state"]["type"]["any_"]]


def _asked(types: Sequence[str], order: str, when: Json | None = None) -> Json:
    body: Json = {"flow_runs": {"state": {"type": {"any_": list(types)}}}, "sort": order}
    if when is not None:
        body["flow_runs"]["expected_start_time"] = when
    return body


def is_of(run: Mapping[str, Any], wanted: str) -> bool:
    """Return whether a run belongs to `anna` of whatever host, to `anna@boxa` there alone, or to `me`, who asks."""
    owner = run_owner(run)
    return is_same(asker(), owner) if wanted == ME else is_called(owner, wanted)


def make_rows(api: Api, runs: Sequence[Json]) -> list[RunRow]:
    """Return runs as they are listed, with how far those that run are."""
    flows = api.flow_names([run["flow_id"] for run in runs])
    going = [run for run in runs if run["state_type"] in RUNNING]
    far = read_progress(api, [run["id"] for run in going])
    rows = [_row(run, flows.get(run["flow_id"], "?"), far.get(run["id"], RunProgress())) for run in runs]
    stages = {run["id"]: said for run in going if _is_pipeline(run) and (said := _waiting_stage(api, run))}
    return [replace(row, message=stages.get(row.id, row.message), known_by=api.known_by) for row in rows]


def _is_pipeline(run: Mapping[str, Any]) -> bool:
    try:
        return parse_queue(run["work_queue_name"] or "").kind == "pipeline"
    except QueueError:
        return False


def _waiting_stage(api: Api, run: Mapping[str, Any]) -> str | None:
    """Return which run a pipeline waits for that waits itself, and why; the pipeline's own state says Running."""
    waiting = [stage for stage in children(api, run["id"]) if stage["state_type"] in WAITING]
    if not waiting:
        return None
    first, others = waiting[0], len(waiting) - 1
    flow = api.flow_names([first["flow_id"]]).get(first["flow_id"], "?")
    sentence = _sentence(first, first["state"] or {}) or "waits"
    return f"{flow}: {sentence}" + (f"; {others} more" if others else "")


def _row(run: Json, flow: str, far: RunProgress) -> RunRow:
    variables, state = run["job_variables"] or {}, run["state"] or {}
    kind = str(run["state_type"] or "")
    queue = queue_of(run)
    return RunRow(
        id=run["id"],
        short=short_id(run["id"]),
        name=run["name"],
        flow=flow,
        owner=run_owner(run),
        device=",".join([far.device or _ran_on(run) or _label(queue), *_ran_also_on(run)]),
        queue=queue,
        priority=variables.get("priority"),
        type=kind,
        state=str(run["state_name"] or ""),
        since=_since(run, kind),
        message=_sentence(run, state),
        **{name: value for name, value in asdict(far).items() if name != "device"},
        **_slot_use(run),
    )


def _slot_use(run: Mapping[str, Any]) -> Json:
    """Return how a run used its slot, as it said itself when it let go of it."""
    ended = run["state_type"] in ENDED
    return asdict(SlotUse.of((run.get("labels") or {}) if ended else {}))


def _label(queue: str) -> str:
    try:
        return parse_queue(queue).label
    except QueueError:
        return ""  # a queue of somebody else's, or none


def _ran_on(run: Mapping[str, Any]) -> str:
    """Return the device that a run had, with its host where that is another one than this."""
    labels = run.get("labels") or {}
    device, host = str(labels.get(DEVICE_LABEL, "")), labels.get(HOST_LABEL)
    return f"{host}/{device}" if device and host != host_name() else device


def _ran_also_on(run: Mapping[str, Any]) -> list[str]:
    """Return the devices of other hosts that a run on several hosts had: boxb/cuda:0."""
    shares = {k.removeprefix(SHARE_LABEL): v for k, v in (run.get("labels") or {}).items() if k.startswith(SHARE_LABEL)}
    return [f"{host}/{tag}" for host, tags in sorted(shares.items()) for tag in device_tags(str(tags))]


def _since(run: Mapping[str, Any], kind: str) -> str:
    first = {**dict.fromkeys(ENDED, "end_time"), "RUNNING": "start_time", "SCHEDULED": "expected_start_time"}
    return str(run.get(first.get(kind, "")) or (run["state"] or {}).get("timestamp") or run["created"])


def is_later(run: Mapping[str, Any]) -> bool:
    """Return whether a schedule or `--at` has put a run down for a time that has not come."""
    due = run["expected_start_time"]
    return run["state_type"] == "SCHEDULED" and due is not None and datetime.fromisoformat(due) > datetime.now(UTC)


def _sentence(run: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    said = str(state.get("message") or "")
    if run["state_type"] == "RUNNING" and not said:
        said = str((run.get("labels") or {}).get(IDLE_LABEL, ""))
    due = run["next_scheduled_start_time"]
    if run["state_type"] != "SCHEDULED" or said or due is None:
        return said
    at = datetime.fromisoformat(due)
    return f"booked for {at.astimezone():%Y-%m-%d %H:%M}" if at > datetime.now(UTC) else NOBODY_LOOKED


def read_logs(api: Api, ids: Sequence[str], since: datetime | None = None) -> Iterator[Json]:
    """Yield the log lines of runs in the order of time.

    Args:
        ids: a run and its stages.
        since: only from then on.
    """
    wanted: Json = {"flow_run_id": {"any_": list(ids)}}
    if since is not None:
        wanted["timestamp"] = {"after_": since.isoformat()}
    yield from api.pages("/logs/filter", {"logs": wanted, "sort": "TIMESTAMP_ASC"})


class LogTail:
    """The log of a run and its stages as it grows; each line once.

    Lines of two processes arrive late and out of order, so the last seconds are asked for again each time.
    """

    _OVERLAP = timedelta(seconds=20)

    def __init__(self, api: Api) -> None:
        self._api = api
        self._newest: datetime | None = None
        self._seen: dict[str, datetime] = {}

    def more(self, ids: Sequence[str]) -> list[Json]:
        """Return the lines that are new since the last call."""
        since = None if self._newest is None else self._newest - self._OVERLAP
        lines = [line for line in read_logs(self._api, ids, since) if line["id"] not in self._seen]
        for line in lines:
            self._seen[line["id"]] = at = datetime.fromisoformat(line["timestamp"])
            self._newest = at if self._newest is None else max(self._newest, at)
        if since is not None:
            self._seen = {name: at for name, at in self._seen.items() if at >= since}
        return lines
