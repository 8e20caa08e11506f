"""Puts runs into their queues, after a check of parameters and device."""

import inspect
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from deployments.api import Api, Json, NotFoundError
from deployments.runs.disk_need import check_room
from deployments.runs.flow_list import load_flow
from deployments.runs.local import check_data, check_parameters, device_sections, for_flow
from deployments.stack.stack import mlflow_url
from gpu_pools import kubernetes
from gpu_pools.device_count import device_count, host_count
from gpu_pools.hosts.offers import hosts_text
from gpu_pools.names import asker, by_host, named_owner
from gpu_pools.placement.queues import (
    POOL,
    Kind,
    Queue,
    QueueError,
    parse_device,
    parse_duration,
    parse_queue,
    queue_or_none,
)
from gpu_pools.prefect_pages import BULK, PAGE
from gpu_pools.project_flows import full_names
from gpu_pools.slots.slot_files import lock_dir, open_lock
from gpu_pools.slurm.request import FIELDS, HOST, ON, request_of
from gpu_pools.worker.permitted import run_environment
from tasks.base.config import override, read_parameters
from tasks.base.errors import ConfigError, GpuBusyError, GpuError
from tasks.base.file_locks import lock
from tasks.store.places import DATA, is_data_set, needs

_DECISION_LIMIT_S = 15.0
_BULK_LIMIT_S = 120.0
_TURN_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a run is to be treated.

    Args:
        device: `cuda`, `cuda:1`, `cpu` or `boxb/cuda:1`; None: as the parameters say, else the deployment.
        priority: 1 (first) to 10; None: the default of its kind.
        when_busy: wait for the device, or be refused at once; None: as the deployment says, else wait.
        time_limit: how long it may run: 90s, 30m, 5h, 2d; None: as the deployment says, else without end.
        name: of the run.
        owner: user@host; None: who asks.
        at: not before then.
        on: the engine that decides when and where it runs: `slurm`, `kubernetes`; None: the yard's own workers.
        job: what its job there asks for: cpus, memory, partition ...
    """

    device: str | None = None
    priority: int | None = None
    when_busy: Literal["wait", "refuse"] | None = None
    time_limit: str | None = None
    name: str | None = None
    owner: str | None = None
    at: datetime | None = None
    on: Literal["slurm", "kubernetes"] | None = None
    job: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """A run as the server is asked for it."""

    deployment: str  # its id
    body: Json


def gather_parameters(file: Path | None, assignments: Sequence[str]) -> Json:
    """Return the parameters in a file, RFUAV's keys included, changed by `a.b=c`.

    Raises:
        ConfigError: the file or an assignment cannot be read.
    """
    parameters = read_parameters(file) if file else {}
    override(parameters, assignments)
    return parameters


def prepare(api: Api, flow_name: str, parameters: Mapping[str, Any], wishes: Wishes) -> Order:
    """Return what to ask the server for, everything checked that can be checked now.

    Args:
        api: of the server.
        flow_name: as in prefect.yaml.
        parameters: nested; relative paths are meant from the current folder.
        wishes: how the run is to be treated.

    Raises:
        ConfigError: no such flow or deployment, a wrong value, no such folder, or a time that is past.
        GpuError: no such device; names those that exist.
    """
    flow = load_flow(flow_name)
    deployment = deployment_of(api, flow_name)
    run_environment(deployment["job_variables"])  # now, not by the worker
    copied: Json = json.loads(json.dumps(parameters, default=str))  # a copy of its own, dates as text
    if needs(copied).data:
        from deployments.data_sets.named import with_digests

        copied = with_digests(copied, mlflow_url())
    given = for_flow(flow, copied)
    names = inspect.signature(flow.fn).parameters
    default, sections = parse_queue(deployment["work_queue_name"]), device_sections(flow)
    if wishes.on is None:
        queue = place_on(api, default, given, wishes.device, sections)
    else:
        queue = place_on_engine(api, default, given, wishes, sections)
    if wishes.name is not None and "track" in names:
        override(given, [f"track.run_name={json.dumps(wishes.name)}"])
    checked = check_parameters(flow, given)
    if urlsplit(api.url).hostname in {"127.0.0.1", "localhost", "::1"}:  # else its disks may be others than these
        check_data(checked.get("data", checked.get("dataset")))
        check_room(flow, checked)
    plain = {name: _plain(value) for name, value in checked.items()}
    n_devices, n_hosts = device_count(plain), host_count(plain)
    if n_hosts > 1 and wishes.on is not None:
        raise ConfigError(f"found n_hosts {n_hosts} with --on {wishes.on}, need the yard's own workers, or one host")
    if n_hosts > 1 and (pinned := _host_of(queue, plain, sections)):
        raise ConfigError(f"found host {pinned} for n_hosts {n_hosts}, need device cuda")
    if wishes.on is None and n_devices * n_hosts > 1:
        _check_hosts_have(api, n_devices, n_hosts, _host_of(queue, plain, sections))
    body: Json = {
        "name": wishes.name or _name(flow_name, checked),
        "parameters": plain,
        "job_variables": _variables(wishes, wishes.owner or named_owner({}, given) or asker()),
    }
    if wishes.on == kubernetes.POOL and queue is not None:
        n_gpus = 0 if queue.device == "cpu" else device_count(body["parameters"])
        body["job_variables"] |= kubernetes.pod_variables(body["job_variables"], n_gpus)
        deployment = _deployment_in_pods(api, flow_name)
    elif queue is not None:
        body["work_queue_name"] = queue.name
    if wishes.at is not None:
        body["state"] = _booking(wishes.at)
    return Order(deployment["id"], body)


def submit(api: Api, order: Order, key: str | None = None) -> Json:
    """Create the run and return it as the server has it; asked twice after a lost answer, it is created once.

    Args:
        api: of the server.
        order: from `prepare`.
        key: who calls again with the same one gets the same run; None: each call makes one.
    """
    run_environment(order.body.get("job_variables", {}))
    body = {**order.body, "idempotency_key": key or uuid4().hex}
    with _turn():
        return dict(api.call("POST", f"/deployments/{order.deployment}/create_flow_run", body))


@contextmanager
def _turn() -> Iterator[None]:
    """Let those who submit on this host at the same time do so one after the other; SQLite refuses all but one.

    A courtesy: whoever was stopped in the middle is not waited for.
    """
    fd = open_lock(lock_dir() / "submit.guard")
    try:
        lock(fd, wait_s=_TURN_LIMIT_S)
        yield
    finally:
        os.close(fd)


def submit_many(api: Api, orders: Sequence[Order]) -> list[str]:
    """Create many runs of one deployment, a hundred per call, and return their ids in the same order.

    Raises:
        ConfigError: the server refused one; others may be created.
    """
    if len({order.deployment for order in orders}) > 1:
        raise ConfigError("found runs of several deployments, need those of one")
    for order in orders:
        run_environment(order.body.get("job_variables", {}))
    bodies = [{**order.body, "idempotency_key": uuid4().hex} for order in orders]
    ids: dict[int, str] = {}
    deadline = time.monotonic() + _BULK_LIMIT_S
    while left := [n for n in range(len(orders)) if n not in ids][:BULK]:
        path = f"/deployments/{orders[0].deployment}/create_flow_run/bulk"
        results = api.call("POST", path, [bodies[n] for n in left])["results"]
        for n, result in zip(left, results, strict=True):
            if result["status"] == "CREATED":
                ids[n] = result["flow_run_id"]
            # Here SQLite's refusal is in the answer to each run; asked again with its key, it is created once.
            elif "database is locked" not in result["error"] or time.monotonic() > deadline:
                raise ConfigError(f"run {n + 1} of {len(orders)} was refused: {result['error']}")
        if any(n not in ids for n in left):
            time.sleep(random.uniform(0.1, 0.5))
    return [ids[n] for n in range(len(orders))]


def await_decision(api: Api, run: Json, limit_s: float = _DECISION_LIMIT_S) -> Json:
    """Return a run that does not want to wait once a worker has decided on it, or as it is after `limit_s` seconds.

    Raises:
        GpuBusyError: it was refused; the sentence why.
    """
    deadline = time.monotonic() + limit_s
    while run["state_type"] == "SCHEDULED" and time.monotonic() < deadline:
        time.sleep(0.25)
        run = api.call("GET", f"/flow_runs/{run['id']}")
    if run["state_type"] == "CANCELLED":
        raise GpuBusyError(run["state"]["message"] or "refused")
    return run


def read_queues(api: Api) -> dict[Queue, Json]:
    """Return the queues of the pool that stand for a device and a kind.

    Raises:
        ConfigError: there is no pool yet.
    """
    try:
        found = list(api.pages(f"/work_pools/{POOL}/queues/filter", {}))
    except NotFoundError as exc:
        raise ConfigError(f"found no work pool {POOL!r} at {api.url}: `yard up` makes it, with its queues") from exc
    queues: dict[Queue, Json] = {}
    for row in found:
        if queue := queue_or_none(row["name"]):
            queues[queue] = row
    return queues


def find_device(queues: Mapping[Queue, Json], asked: str, kind: Kind) -> Queue:
    """Return the queue of a device for one kind.

    Raises:
        GpuError: there is no such device for it; names those that there are.
    """
    try:
        host, device = parse_device(asked)
    except QueueError:
        host, device = None, ""
    queue = Queue(device, kind, host)
    # The server makes a queue for any name that a run comes with: a GPU that a host has is in one of the host's own.
    owned = {(other.device, other.kind) for other in queues if other.host}
    real = {other for other in queues if not other.device.startswith("cuda:") or (other.device, other.kind) in owned}
    if queue not in real:
        several = len({other.host for other in queues if other.host}) > 1
        shown = {other.label for other in real if other.kind == kind and (several or not other.host)}
        have = ", ".join(sorted(shown)) or "none"
        raise GpuError(f"found no device {asked!r} for {kind}, have: {have}")
    return queue


def _host_of(queue: Queue | None, parameters: Json, sections: Sequence[str]) -> str | None:
    """Return the host whose GPUs a run wants; None: any host's."""
    if queue is not None:
        return queue.host
    asked = (_device_of(parameters, section) for section in sections)
    return next((parse_device(device)[0] for device in asked if device), None)


def _check_hosts_have(api: Api, n_devices: int, n_hosts: int, host: str | None) -> None:
    """Refuse a run that needs more GPUs at once than a host of the yard has, now and not after hours of preparation.

    One that needs several hosts is refused also where so many have the GPUs, but are not online.

    Raises:
        GpuError: both numbers.
    """
    if host == HOST:
        return  # Slurm knows what it has
    own = [queue for queue in read_queues(api) if queue.host and queue.device.startswith("cuda:")]
    have = Counter(queue.host for queue in own if queue.kind == "training" and host in (None, queue.host))
    if n_devices > max(have.values(), default=0):
        found = ", ".join(f"{n} on {name}" for name, n in sorted(have.items(), key=str)) or "none"
        raise GpuError(f"found GPUs: {found}; need {n_devices} of one host for n_devices {n_devices}")
    able = sorted(name for name, n in have.items() if name is not None and n >= n_devices)
    if n_hosts > 1 and len(online := [name for name in able if _online(api).get(name)]) < n_hosts:
        needs = f"{hosts_text(n_hosts, n_devices)} for n_hosts {n_hosts}"
        raise GpuError(f"found {', '.join(able) or 'none'}, online: {', '.join(online) or 'none'}; need {needs}")


def _online(api: Api) -> dict[str, bool]:
    """Return the hosts that have, or had, a worker, and whether one is online."""
    found = api.call("POST", f"/work_pools/{POOL}/workers/filter", {"limit": PAGE})
    return by_host({worker["name"]: worker["status"] == "ONLINE" for worker in found})


def deployment_of(api: Api, flow_name: str) -> Json:
    """Return the deployment of a flow, under its name of today or its old one.

    Raises:
        ConfigError: the server has none.
    """
    names = full_names(flow_name)
    for name in names:
        try:
            return dict(api.call("GET", f"/deployments/name/{name}"))
        except NotFoundError:
            continue
    raise ConfigError(f"found no deployment {names[0]} at {api.url}: `yard up` makes it")


def _deployment_in_pods(api: Api, flow_name: str) -> Json:
    name = kubernetes.deployment_name(flow_name)
    try:
        return dict(api.call("GET", f"/deployments/name/{name}"))
    except NotFoundError as exc:
        raise ConfigError(
            f"found no deployment {name} at {api.url}: `python -m deployments.kubernetes` makes those of all flows "
            "that compute"
        ) from exc


def place_on(api: Api, default: Queue, parameters: Json, wish: str | None, sections: Sequence[str]) -> Queue | None:
    """Put the device into the parameters and return the queue, None for the deployment's own.

    Args:
        sections: the parameters that have a device; empty: the flow uses none.
    """
    asked = {section: wish or _device_of(parameters, section) for section in sections}
    wanted = {section: device for section, device in asked.items() if device is not None}
    if default.kind == "pipeline":  # it waits on the CPU for its stages; the devices are those of the stages
        if wish is not None and not sections:
            raise ConfigError("found --device for a flow that uses none")
        for section, device in wanted.items():
            kind: Kind = "inference" if section == "predict" else "training"
            override(parameters, [f"{section}.device={find_device(read_queues(api), device, kind).label}"])
        return None
    chosen = wish or next(iter(wanted.values()), None)
    if chosen is None:
        return None
    found = find_device(read_queues(api), chosen, default.kind)
    override(parameters, [f"{section}.device={found.device}" for section in sections])
    return None if found == default else found


def place_on_engine(
    api: Api, default: Queue, parameters: Json, wishes: Wishes, sections: Sequence[str]
) -> Queue | None:
    """Return the queue of another engine for a flow, None for a pipeline, whose stages go there; see `place_on`.

    Raises:
        ConfigError: the engine is not served, or a device is named that is the engine's to choose.
    """
    wish = wishes.device
    asked = {section: wish or _device_of(parameters, section) for section in sections}
    for device in {wish, *asked.values()} - {None, "cuda", "cpu"}:
        raise ConfigError(f"found device {device!r} with --on {wishes.on}, need cuda or cpu: it chooses which one")
    chosen = next(filter(None, [wish, *asked.values()]), default.device)
    override(parameters, [f"{section}.device={wish}" for section in sections if wish])
    kind: Kind = "training" if default.kind == "pipeline" else default.kind
    if wishes.on == kubernetes.POOL:
        if default.kind == "pipeline":
            _deployment_in_pods(api, "train_classifier")  # with those of all stages
            return None
        return Queue(chosen, kind)
    queue = Queue(chosen, kind, HOST)
    if queue not in read_queues(api):
        raise ConfigError(
            f"found no Slurm for {kind} at {api.url}: `yard up` where sbatch is installed serves it; `yard doctor` "
            "there says what is missing"
        )
    return None if default.kind == "pipeline" else queue


def _device_of(parameters: Json, section: str) -> str | None:
    given = parameters.get(section)
    device = given.get("device") if isinstance(given, dict) else None
    return None if device is None else str(device)


def _variables(wishes: Wishes, owner: str) -> Json:
    variables: Json = {"owner": owner}
    if wishes.when_busy is not None:
        variables["when_busy"] = wishes.when_busy
    if wishes.on is not None:
        variables[ON] = wishes.on
    variables |= _job(wishes)
    if wishes.priority is not None:
        variables["priority"] = wishes.priority
    if wishes.time_limit is not None:
        parse_duration(wishes.time_limit)  # now, not by the worker
        variables["time_limit"] = wishes.time_limit
    return variables


def _job(wishes: Wishes) -> Json:
    """Return what a job is to ask its engine for, checked."""
    known = kubernetes.FIELDS if wishes.on == kubernetes.POOL else FIELDS
    if unknown := sorted(wishes.job.keys() - set(known)):
        raise ConfigError(f"found --job {unknown[0]}=..., need one of: {', '.join(known)}")
    return request_of(wishes.job).model_dump(exclude_unset=True)


def _booking(at: datetime) -> Json:
    if at <= datetime.now(at.tzinfo):
        raise ConfigError(f"found the time {at:%Y-%m-%d %H:%M}, need one to come")
    return {"type": "SCHEDULED", "state_details": {"scheduled_time": at.isoformat()}}


def _plain(value: Any) -> Any:
    """Return a checked value as JSON has it: only what was given, paths absolute."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value) if is_data_set(value) else str(value.expanduser().absolute())
    if isinstance(value, str) and value.lower().endswith(".csv") and Path(value).is_file():
        return str(Path(value).absolute())  # split.group_by: an expression, or a file
    return value


def _name(flow_name: str, checked: Mapping[str, Any]) -> str:
    data = checked.get("data") or checked.get("dataset") or checked.get("model")
    train = checked.get("train")
    source = data if isinstance(data, Path) else getattr(train, "train_path", None)
    if named := DATA.fullmatch(str(source)):
        return f"{flow_name}-{named['name']}"
    return f"{flow_name}-{source.expanduser().absolute().name}" if isinstance(source, Path) else flow_name
