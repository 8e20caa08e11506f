"""The worker's client of Prefect's server."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound

from gpu_pools.hosts.offers import Offer, offers_of
from gpu_pools.names import DEVICE_LABEL, HOST_LABEL, KIND_LABEL, OWNER_LABEL, PEAK_LABEL, WAITED_LABEL, named_owner
from gpu_pools.placement.queues import POOL, Kind, queue_of
from gpu_pools.prefect_pages import PAGE, read_pages
from gpu_pools.project_flows import flow_of
from gpu_pools.server_clock import ServerClock

WAITING = "Waiting"
"""Name of the state of a run that waits for its turn, with the sentence why."""

_DEPLOYMENT_EVERY_S = 30.0
_IN_POOL = {"work_pool_name": POOL}
_BUSY_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # between tries; a write takes the server some milliseconds
_ALIVE = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED")


@dataclass(frozen=True, slots=True)
class Run:
    """A flow run as the server has it; times in Unix seconds, by its clock."""

    id: str
    name: str
    queue: str
    deployment: str | None
    state: str  # RUNNING, SCHEDULED ...
    state_name: str
    message: str
    since: float  # it is due
    job_variables: Mapping[str, Any]  # its own, else its deployment's
    infrastructure: str
    ended: float | None = None
    state_id: str = ""
    owner: str = ""  # as it says itself
    scheduled: bool = False  # made by a schedule
    schedule: str = ""  # id of that
    begun: bool = False  # an attempt at it began
    flow: str = ""  # id of that
    flow_name: str = ""  # as its deployment says; "" of one without
    parameters: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the parameters that it does not name
    peak_memory_mib: float | None = None  # of its GPU, the most that it held
    offers: Mapping[str, Offer] = field(default_factory=dict)  # of hosts, where it needs several


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue of the pool, or the pool itself: its limit as set in Prefect, None for none."""

    name: str
    limit: int | None
    paused: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """How the runs of a deployment are started."""

    entrypoint: str | None  # as whoever made it wrote it
    variables: Mapping[str, Any]  # job variables; those of a run go before them
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of its flow's parameters


class PoolClient:
    """Prefect's API, by the few calls that the worker needs; every call raises httpx errors when it does not answer.

    Attributes:
        clock: of the server.
    """

    def __init__(self) -> None:
        self.clock = ServerClock()
        hooks = {"response": [self.clock.note, _try_soon]}
        self._client: SyncPrefectClient = get_client(httpx_settings={"event_hooks": hooks}, sync_client=True)
        self._deployments: dict[str, tuple[float, Deployment]] = {}

    def call(self, method: str, path: str, body: Any) -> Any:
        """Return what the server answers to any other question, None for nothing."""
        answer = self._client.request(method, path, json=body)  # type: ignore[arg-type]
        return answer.json() if answer.content else None

    def heartbeat(self, worker: str, every_s: float) -> None:
        """Say that the worker lives, and that somebody looks into the queues; Prefect's pages show them red else."""
        self._client.send_worker_heartbeat(POOL, worker, heartbeat_interval_seconds=every_s)
        never = {"scheduled_before": _iso(0), "limit": 1}
        self._client.request(
            "POST", "/work_pools/{name}/get_scheduled_flow_runs", path_params={"name": POOL}, json=never
        )

    def pool(self) -> QueueState:
        """Return the pool itself."""
        found = self._client.request("GET", "/work_pools/{name}", path_params={"name": POOL}).json()
        return QueueState(found["name"], found["concurrency_limit"], found["is_paused"])

    def queues(self) -> list[QueueState]:
        """Return the queues of the pool."""
        found = self._pages("/work_pools/{work_pool_name}/queues/filter", {}, path_params=_IN_POOL)
        return [QueueState(q["name"], q["concurrency_limit"], q["is_paused"]) for q in found]

    def create_queue(self, name: str, limit: int | None) -> None:
        """Make a queue that is missing."""
        body = {"name": name, "concurrency_limit": limit}
        self._client.request("POST", "/work_pools/{work_pool_name}/queues", path_params=_IN_POOL, json=body)

    def due(self, lately_s: float | None = None) -> list[Run]:
        """Return the runs of the pool that wait and are due, oldest first.

        Args:
            lately_s: only those that came due within the last so many seconds.
        """
        now = self.clock.now()
        window = {"before_": _iso(now)} | ({"after_": _iso(now - lately_s)} if lately_s is not None else {})
        return self._runs({"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": window})

    def due_or_cancelling(self) -> list[Run]:
        """Return the runs of the pool that are due, and wait or are being cancelled, oldest first."""
        window = {"before_": _iso(self.clock.now())}
        return self._runs({"state": {"type": {"any_": ["SCHEDULED", "CANCELLING"]}}, "expected_start_time": window})

    def in_state(self, *types: str) -> list[Run]:
        """Return the runs of the pool whose state is of one of these types."""
        return self._runs({"state": {"type": {"any_": list(types)}}})

    def by_id(self, ids: Sequence[str]) -> dict[str, Run]:
        """Return runs by their ids, without those that are deleted."""
        return {run.id: run for run in self._runs({"id": {"any_": list(ids)}})} if ids else {}

    def completed(self, flows: Sequence[str], after: float) -> list[Run]:
        """Return the runs of some flows that have completed since then, whether a worker started them or a person.

        Args:
            flows: their names.
            after: Unix seconds.
        """
        found = list(self._pages("/flows/filter", {"flows": {"name": {"any_": list(flows)}}}))
        names = {flow["id"]: str(flow["name"]) for flow in found}
        wanted = {"state": {"type": {"any_": ["COMPLETED"]}}, "end_time": {"after_": _iso(after)}}
        body = {"flow_runs": wanted, "flows": {"id": {"any_": list(names)}}, "sort": "END_TIME_DESC"}
        rows = self._pages("/flow_runs/filter", body) if names else ()
        return [replace(_run(row, self._known(row["deployment_id"])), flow_name=names[row["flow_id"]]) for row in rows]

    def children(self, run_id: str) -> list[Run]:
        """Return the runs that a run has started and that are not at their end."""
        return self._runs({"parent_flow_run_id": {"any_": [run_id]}, "state": {"type": {"any_": list(_ALIVE)}}})

    def propose(self, run_id: str, state: State[Any], after: str = "") -> str | None:
        """Ask for a state; return the new state's id, or None where the server refuses, or the run is deleted.

        Args:
            run_id: of the run.
            state: that it shall have.
            after: id of the state that this one shall follow. Of all that ask so the server hears the first one only,
                by Prefect's rule against a transition that is sent twice. Without it, whatever is there is followed:
                what one worker says of a waiting run would take back the claim of another one.
        """
        details = {**state.state_details.model_dump(mode="json"), "flow_run_id": run_id}
        details["transition_id"] = str(uuid5(UUID(after), "next") if after else uuid4())
        wanted = {**state.model_dump(mode="json", include={"type", "name", "message"}), "state_details": details}
        with _perhaps_deleted():
            answer = self.call("POST", f"/flow_runs/{run_id}/set_state", {"state": wanted})
            return str(answer["state"]["id"]) if answer["status"] == "ACCEPT" else None
        return None

    def force(self, run_id: str, state: State[Any]) -> None:
        """Set a state whatever the server thinks; a run that was deleted stays so."""
        try:
            self._client.set_flow_run_state(UUID(run_id), state, force=True)
        except ObjectNotFound:
            return

    def end_steps(self, run_id: str, state: State[Any]) -> None:
        """Give a last state to the steps of a run that its process left without one; stages have runs of their own."""
        wanted = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "subflow_runs": {"exists_": False}}
        body = {"task_runs": wanted, "flow_runs": {"id": {"any_": [run_id]}}}
        for row in list(self._pages("/task_runs/filter", body)):
            with _perhaps_deleted():
                self._client.set_task_run_state(UUID(row["id"]), state, force=True)

    def set_infrastructure(self, run_id: str, text: str) -> None:
        """Say where the process of a run is; Prefect cancels only runs that have one in two steps."""
        with _perhaps_deleted():
            self._client.update_flow_run(UUID(run_id), infrastructure_pid=text)

    def set_device(self, run_id: str, host: str, tag: str, also: Mapping[str, str | float] | None = None) -> None:
        """Write on a run which device it has, and what else is in `also`: who reads it later finds no lock any more."""
        self.set_labels(run_id, {DEVICE_LABEL: tag, HOST_LABEL: host, **(also or {})})

    def set_own_slot(self, run_id: str, place: tuple[str, str], *, owner: str, kind: Kind, waited_s: float) -> None:
        """Write on a run in a person's own process what a run of the pool has in its queue and its states.

        Args:
            run_id: of the run.
            place: its host and its device.
            owner: whose it is; a stage within a pipeline's process says it nowhere else.
            kind: of the work.
            waited_s: for the slot just now, seconds; the run was Running meanwhile. Added to what it waited before.
        """
        with _perhaps_deleted():
            before = self._client.read_flow_run(UUID(run_id)).labels.get(WAITED_LABEL)
            before_s = float(before) if isinstance(before, int | float) else 0.0
            own: dict[str, str | float] = {OWNER_LABEL: owner, KIND_LABEL: kind}
            own |= {HOST_LABEL: place[0], DEVICE_LABEL: place[1], WAITED_LABEL: round(before_s + waited_s, 3)}
            self.set_labels(run_id, own)

    def set_labels(self, run_id: str, labels: Mapping[str, str | float]) -> None:
        """Set labels of a run, the others stay."""
        with _perhaps_deleted():
            self._client.update_flow_run_labels(UUID(run_id), dict(labels))

    def labels(self, run_id: str) -> Mapping[str, Any]:
        """Return the labels of a run; none of one that is deleted."""
        with _perhaps_deleted():
            return self._client.read_flow_run(UUID(run_id)).labels
        return {}

    def deployment(self, deployment_id: str | None) -> Deployment:
        """Return what a deployment says about starting its runs."""
        if deployment_id is None:
            return Deployment(None, {})
        try:
            found = self._client.read_deployment(UUID(deployment_id))
        except ObjectNotFound:
            return Deployment(None, {})
        # Without its path and its steps, which could load code or run a command before the flow is loaded.
        return Deployment(found.entrypoint, found.job_variables, _defaults(found.parameter_openapi_schema or {}))

    def workers(self) -> dict[str, bool]:
        """Return all workers of the pool by name, and whether each has been heard of lately."""
        answer = self._client.request(
            "POST", "/work_pools/{work_pool_name}/workers/filter", path_params=_IN_POOL, json={"limit": PAGE}
        )
        return {worker["name"]: worker["status"] == "ONLINE" for worker in answer.json()}

    def add_tag(self, run_id: str, tag: str) -> None:
        """Add a tag to a run."""
        with _perhaps_deleted():
            found = self._client.read_flow_run(UUID(run_id))
            self._client.update_flow_run(found.id, tags=sorted({*found.tags, tag}))

    def ensure_pool(self, kind: str, template: Mapping[str, Any]) -> None:
        """Make the work pool when it is missing."""
        body = {"name": POOL, "type": kind, "base_job_template": dict(template)}
        try:
            self._client.request("GET", "/work_pools/{name}", path_params={"name": POOL})
        except httpx.HTTPStatusError as exc:
            if exc.response.status_code != 404:
                raise
            self._client.request("POST", "/work_pools/", json=body)

    def _runs(self, flow_runs: Mapping[str, Any]) -> list[Run]:
        body = {"flow_runs": flow_runs, "work_pools": {"name": {"any_": [POOL]}}, "sort": "EXPECTED_START_TIME_ASC"}
        rows = list(self._pages("/flow_runs/filter", body))
        return [_run(row, self._known(row["deployment_id"])) for row in rows]

    def _known(self, deployment_id: str | None) -> Deployment:
        """Return what a deployment says, half a minute old at most: a thousand waiting runs share a few."""
        if deployment_id is None:
            return Deployment(None, {})
        read_at, known = self._deployments.get(deployment_id, (float("-inf"), Deployment(None, {})))
        if time.monotonic() - read_at >= _DEPLOYMENT_EVERY_S:
            known = self.deployment(deployment_id)
            self._deployments[deployment_id] = (time.monotonic(), known)
        return known

    def pages(self, path: str, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield every row of a filter, page by page."""
        return self._pages(path, body)

    def _pages(self, path: Any, body: Mapping[str, Any], **options: Any) -> Iterator[Mapping[str, Any]]:
        def ask(page: dict[str, Any]) -> list[Mapping[str, Any]]:
            return list(self._client.request("POST", path, json=page, **options).json())

        return read_pages(ask, body)


def _try_soon(response: httpx.Response) -> None:
    """Let Prefect's client repeat soon what its server was too busy for: by itself it waits for two seconds and more.

    On SQLite the server answers 503 where another write comes between its reading and its writing, as it does for the
    labels of every other run that ends; such a run still holds its slot, and the worker's turn stands still.
    """
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE and "Retry-After" not in response.headers:
        n_busy = response.request.extensions.get("n_busy", 0)
        response.request.extensions["n_busy"] = n_busy + 1
        if n_busy < len(_BUSY_S):
            response.headers["Retry-After"] = str(_BUSY_S[n_busy])


@contextmanager
def _perhaps_deleted() -> Iterator[None]:
    """Pass over that a run is not there any more: the next look at the runs finds it out."""
    try:
        yield
    except ObjectNotFound:
        return
    except httpx.HTTPStatusError as exc:
        if exc.response.status_code != httpx.codes.NOT_FOUND:
            raise


def waiting_state(message: str, since: float) -> State[Any]:
    """Return the state of a run that waits, with the sentence why."""
    return _state(StateType.SCHEDULED, WAITING, message, since)


def make_state(kind: StateType, name: str, message: str) -> State[Any]:
    """Return a last state."""
    return _state(kind, name, message)


def _state(kind: StateType, name: str, message: str, scheduled: float | None = None) -> State[Any]:
    state: State[Any] = State(type=kind, name=name, message=message)
    if scheduled is not None:
        state.state_details.scheduled_time = datetime.fromtimestamp(scheduled, UTC)  # type: ignore[assignment]
    return state


def _run(row: Mapping[str, Any], deployment: Deployment) -> Run:
    state = row["state"] or {}
    variables = {**deployment.variables, **_given(row["job_variables"])}
    return Run(
        id=row["id"],
        name=row["name"],
        queue=queue_of(row),
        deployment=row["deployment_id"],
        state=state.get("type", ""),
        state_id=state.get("id", ""),
        state_name=state.get("name", ""),
        message=state.get("message") or "",
        since=datetime.fromisoformat(row["expected_start_time"] or row["created"]).timestamp(),
        job_variables=variables,
        infrastructure=row["infrastructure_pid"] or "",
        ended=datetime.fromisoformat(row["end_time"]).timestamp() if row["end_time"] else None,
        owner=named_owner(variables, row["parameters"] or {}),
        scheduled=bool(row["auto_scheduled"]),
        schedule=str((row["created_by"] or {}).get("id") or "") if row["auto_scheduled"] else "",
        begun=row["start_time"] is not None,
        flow=row["flow_id"],
        flow_name=flow_of(deployment.entrypoint or ""),
        parameters=row["parameters"] or {},
        defaults=deployment.defaults,
        peak_memory_mib=(row.get("labels") or {}).get(PEAK_LABEL),
        offers=offers_of(row.get("labels") or {}),
    )


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a flow's parameters; of a model without one, those of its fields."""
    models = schema.get("definitions", {})

    def default(field_: Mapping[str, Any]) -> Any:
        if "default" in field_ or "$ref" not in field_:
            return field_.get("default")
        fields = models.get(field_["$ref"].rpartition("/")[2], {}).get("properties", {})
        return {name: default(its) for name, its in fields.items()}

    return {name: default(its) for name, its in schema.get("properties", {}).items()}


def _given(variables: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the variables that say something: a form sends those left empty too."""
    return {name: value for name, value in (variables or {}).items() if value is not None}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
