"""Changes runs: cancel, delete, priority, limits."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.api import Api, Json, NotFoundError
from deployments.runs.find import ENDED, RUNNING, WAITING, children, find_run, is_later, is_of
from deployments.runs.submit import find_device, read_queues
from gpu_pools.names import asker
from gpu_pools.placement.queues import KINDS, POOL, Kind, parse_device
from tasks.base.errors import ConfigError
from tasks.base.workspace import home, storage_errors

_USUAL, _MOST = 16, 1000
"""Runs at once on a device: more than the first is seldom meant; the server takes no number of any size."""


def cancel(api: Api, run: Json) -> str:
    """Ask for the end of a run and return what becomes of it.

    Raises:
        ConfigError: it runs in somebody's terminal, or the server refuses.
    """
    what = f"run {run['id']} ({run['name']})"
    if run["state_type"] in ENDED:
        return f"{what} has ended already: {run['state_name']}"
    if run["deployment_id"] is None:
        raise ConfigError(
            f"{what} was started by `yard run` or by code: Ctrl-C there ends it, no worker looks after it"
        )
    state = {"type": "CANCELLING", "name": "Cancelling", "message": f"cancelled by {asker()}"}
    answer = api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state})
    now = (answer["state"] or {}).get("type") or run["state_type"]
    if now == "CANCELLED":
        return f"{what} is cancelled; it was waiting, nothing ran"
    if now == "CANCELLING":
        return f"{what} is being stopped by its worker, its parts with it; what it saved stays"
    raise ConfigError(f"{what} cannot be cancelled: {answer['details'].get('reason') or answer['status']}")


def on_each(api: Api, names: Sequence[str], change: Callable[[Json], object], *, ended: bool = False) -> None:
    """Change runs, the others too where one is refused.

    Args:
        api: of the server.
        names: of the runs.
        change: is given each.
        ended: of several of one name the one that has ended is meant.

    Raises:
        ConfigError: what was refused, a line each.
    """
    faults = []
    for name in names:
        try:
            change(find_run(api, name, ended=ended))
        except ConfigError as exc:
            faults.append(str(exc))
    if faults:
        raise ConfigError("\n".join(faults))


def living(
    api: Api, *, types: Sequence[str], scheduled: bool = False, flow: str | None, owner: str | None
) -> list[Json]:
    """Return the runs of the yard in these states, longest waiting first; a stage only where its pipeline is not one.

    Args:
        api: of the server.
        types: of states; of what waits, only what is due.
        scheduled: what a schedule or `--at` has put down for later, too.
        flow: its name; None: of any.
        owner: `anna`, `anna@boxa`, or `me`; None: of anybody.
    """
    body: Json = {
        "flow_runs": {"state": {"type": {"any_": [*types, *(["SCHEDULED"] if scheduled else [])]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    if flow:
        body["flows"] = {"name": {"any_": [flow]}}
    found = [run for run in api.pages("/flow_runs/filter", body) if run["deployment_id"] is not None]
    found = [run for run in found if (scheduled if is_later(run) else run["state_type"] in types)]
    found = [run for run in found if owner is None or is_of(run, owner)]
    taken = {stage["id"] for run in found for stage in children(api, run["id"])}
    return [run for run in found if run["id"] not in taken]


def ended(api: Api, *, flow: str | None, owner: str | None) -> list[Json]:
    """Return the runs that have ended, the newest first, without the stages of pipelines.

    Args:
        api: of the server.
        flow: its name; None: of any.
        owner: as `living`.
    """
    wanted = {"state": {"type": {"any_": list(ENDED)}}, "parent_task_run_id": {"is_null_": True}}
    body: Json = {"flow_runs": wanted, "sort": "END_TIME_DESC"}
    if flow:
        body["flows"] = {"name": {"any_": [flow]}}
    return [run for run in api.pages("/flow_runs/filter", body) if owner is None or is_of(run, owner)]


def check_ended(api: Api, run: Json) -> list[Json]:
    """Return the stages of a run that may be removed.

    Raises:
        ConfigError: it, or a stage of it, is not at its end.
    """
    stages = children(api, run["id"])
    for found in (run, *stages):
        if found["state_type"] not in ENDED:
            raise ConfigError(
                f"run {found['id']} ({found['name']}) is {found['state_name']}: `yard cancel {found['id']}` first"
            )
    return stages


def delete(api: Api, run: Json, *, artifacts: bool) -> list[str]:
    """Remove a run that has ended: its files on this host, then its record and those of its stages.

    Args:
        api: of the server.
        run: as the server has it.
        artifacts: the MLflow run as well.

    Returns:
        A line for each thing removed.

    Raises:
        ConfigError: the run lives, or its model is a champion.
    """
    stages = check_ended(api, run)
    removed: list[str] = []
    folders = [home() / "runs" / found["id"] for found in (*stages, run)]
    if artifacts:
        removed += [f"MLflow run {found}" for found in _delete_tracked(tracked_runs(folders))]
    for folder in folders:
        if folder.is_dir():
            with storage_errors(folder):
                shutil.rmtree(folder)  # a link to the folder of the pipeline is removed, not what it leads to
            removed.append(f"folder {folder}")
    for found in (*stages, run):
        try:
            api.call("DELETE", f"/flow_runs/{found['id']}")
        except NotFoundError:
            continue  # deleted with its parent, or by somebody else
        removed.append(f"record {found['id']} ({found['name']})")
    return removed


def tracked_runs(folders: Sequence[Path]) -> list[str]:
    """Return the ids of the MLflow runs that lie in folders of runs."""
    cards = [json.loads(path.read_text()) for folder in folders for path in sorted(folder.glob("*/run.json"))]
    return [card["run_id"] for card in cards if card.get("run_id")]


def _delete_tracked(run_ids: Sequence[str]) -> Sequence[str]:
    if not run_ids:
        return run_ids
    from mlflow.exceptions import MlflowException

    from tasks.tracking.mlflow_api import client

    store = client()
    for run_id in run_ids:
        for version in store.search_model_versions(f"run_id = '{run_id}'"):
            found = store.get_model_version(version.name, version.version)
            if found.aliases:
                raise ConfigError(
                    f"MLflow run {run_id} made version {found.version} of model {found.name!r}, which is "
                    f"{', '.join(found.aliases)}: give that name to another version first"
                )
    for run_id in run_ids:
        try:
            store.delete_run(run_id)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise ConfigError(f"MLflow does not delete run {run_id}: {exc}") from exc
    return run_ids


def waiting_of(api: Api, run: Json) -> list[Json]:
    """Return what waits of a run: itself, or stages of it."""
    return [found for found in (run, *children(api, run["id"])) if found["state_type"] == "SCHEDULED"]


def with_waiting(api: Api, *, flow: str | None, owner: str | None) -> list[Json]:
    """Return the living runs of which something waits, chosen as by `living`."""
    found = living(api, types=(*WAITING, *RUNNING), flow=flow, owner=owner)
    return [run for run in found if waiting_of(api, run)]


def set_priority(api: Api, run: Json, priority: int) -> list[Json]:
    """Move a waiting run, or the waiting stage of a pipeline; return the runs changed.

    Raises:
        ConfigError: neither it nor a stage of it waits.
    """
    waiting = waiting_of(api, run)
    if not waiting:
        raise ConfigError(f"run {run['id']} ({run['name']}) is {run['state_name']}: a priority counts while it waits")
    for found in waiting:
        variables = {**(found["job_variables"] or {}), "priority": priority}
        api.call("PATCH", f"/flow_runs/{found['id']}", {"job_variables": variables})
    return waiting


def read_limits(api: Api) -> list[Json]:
    """Return device, kind, queue, limit (None: none of its own) and paused for every queue of the pool.

    Without the hosts' own queues, as long as nobody has given them a limit of their own.
    """
    queues = read_queues(api)
    order = sorted(queues, key=lambda queue: (queue.host or "", queue.device == "cpu", queue.device, queue.kind))
    return [
        {
            "device": queue.label,
            "kind": queue.kind,
            "queue": queue.name,
            "limit": queues[queue]["concurrency_limit"],
            "paused": queues[queue]["is_paused"],
        }
        for queue in order
        if queue.host is None or queues[queue]["concurrency_limit"] is not None or queues[queue]["is_paused"]
    ]


def set_limits(api: Api, device: str, assignments: Sequence[str], *, force: bool = False) -> None:
    """Change how many runs of a kind a device takes at once; workers follow within seconds.

    Args:
        api: of the server.
        device: `cuda:1`, `cpu` or `boxb/cuda:1`.
        assignments: `training=2`; 0 lets nothing start; none only asks whether there is such a device.
        force: take a limit above 16, too.

    Raises:
        ConfigError: an assignment is none or too much, or `cuda` is given, which has no limit of its own.
        GpuError: no such device; nothing is changed then.
    """
    wanted = _limits(assignments, force=force)
    queues = read_queues(api)
    if wanted and parse_device(device)[1] == "cuda":
        raise ConfigError("found device 'cuda', need one such as cuda:0: the limit belongs to each GPU")
    names = {find_device(queues, device, kind).name: limit for kind, limit in wanted.items()}
    for name, limit in names.items():
        api.call("PATCH", f"/work_pools/{POOL}/queues/{name}", {"concurrency_limit": limit})
    if not wanted:
        find_device(queues, device, "training")


def _limits(assignments: Sequence[str], *, force: bool) -> Mapping[Kind, int]:
    limits: dict[Kind, int] = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        kind: Any = next((kind for kind in KINDS if kind == name), None)
        if kind is None or not value.isdecimal() or int(value) > _MOST:
            raise ConfigError(
                f"found {assignment!r}, need KIND=NUMBER such as training=2, from 0 to {_MOST}; kinds: "
                f"{', '.join(KINDS)}"
            )
        if int(value) > _USUAL and not force:
            raise ConfigError(
                f"found {assignment!r}, need at most {_USUAL} runs at once, or --force: each may need all of the memory"
            )
        limits[kind] = int(value)
    return limits
