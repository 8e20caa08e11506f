"""Goes on with a run that was cut off or out of time, in its queue or here."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from deployments.api import Api, Json
from deployments.runs.find import ENDED, children
from deployments.runs.flow_parameters import parallel_sections
from deployments.runs.own_records import found_anywhere
from deployments.sharing.acts import Acts
from deployments.sharing.permissions import run_target
from gpu_pools.device_count import with_device_count
from gpu_pools.names import asker
from gpu_pools.placement.queues import parse_duration
from tasks.base.errors import ConfigError

_ASIDE = timedelta(hours=1)  # the server changes job variables of a run that waits only, and none may start before


def resume(
    wanted: str | None, time_limit: str | None = None, *, n_devices: int | None = None, force: bool = False
) -> UUID | str:
    """Go on with a run, from its last checkpoint, in the same Prefect and MLflow run.

    Args:
        wanted: its id, the beginning of it, or its name; None: the newest.
        time_limit: 90s, 30m, 5h ..., from now on; None: a queued run keeps the one it had.
        n_devices: GPUs that it computes on from now on; None: as many as before.
        force: one of somebody else in a queue, too.

    Returns:
        The id of a run that has ended here; or what became of one that was put back into its queue.

    Raises:
        ConfigError: there is no such run, it is completed or has not ended, its process lives, or it computes on no
            more than one GPU.
    """
    limit_s = None if time_limit is None else parse_duration(time_limit)
    number = None
    if wanted is not None:
        with found_anywhere(wanted, ended=True) as (api, found):
            if api.known_by == "server" and found["deployment_id"] is not None:
                changes = [f"for {time_limit}"] * bool(time_limit) + [f"on {n_devices} GPUs"] * bool(n_devices)
                with Acts.of(api, force=force).act("resume", run_target(found), ", ".join(changes)):
                    return put_back(api, found, time_limit, n_devices)
        number = UUID(found["id"])
    from deployments.runs.local import resume_here

    return resume_here(number, limit_s, n_devices)


def put_back(api: Api, run: Json, time_limit: str | None, n_devices: int | None = None) -> str:
    """Put a run that has not ended well back into its queue, with the stages of a pipeline that have not either.

    Raises:
        ConfigError: it is completed, or has not ended, or a number of devices is named that it cannot have.
    """
    what = f"run {run['id']} ({run['name']})"
    if run["state_type"] == "COMPLETED":
        raise ConfigError(f"{what} is completed: nothing is left to do")
    if run["state_type"] not in ENDED:
        raise ConfigError(f"{what} is {run['state_name']}, need one that has ended: `yard cancel {run['id']}` first")
    stages = [
        one for one in children(api, run["id"]) if one["state_type"] in ENDED and one["state_type"] != "COMPLETED"
    ]
    parameters = {one["id"]: _on_devices(api, one, n_devices) for one in (*stages, run)} if n_devices else {}
    if n_devices and not any(parameters.values()):
        raise ConfigError(f"{what} computes on one device, found --devices {n_devices}")
    for one in (*stages, run):
        if changed := parameters.get(one["id"]):
            api.call("PATCH", f"/flow_runs/{one['id']}", {"parameters": changed})
        if time_limit is not None:
            _wait(api, one, datetime.now(UTC) + _ASIDE)
            variables = {**(one["job_variables"] or {}), "time_limit": time_limit}
            api.call("PATCH", f"/flow_runs/{one['id']}", {"job_variables": variables})
        _wait(api, one)
    limit = "" if time_limit is None else f", with {time_limit} from its start on"
    return f"{what} waits in its queue again{limit}; it goes on from its last checkpoint{_what_follows(api, run)}"


def _on_devices(api: Api, run: Json, n_devices: int) -> Json | None:
    """Return the parameters of a run that is to compute on so many devices; None: its flow computes on one."""
    sections = parallel_sections(api.call("GET", f"/flows/{run['flow_id']}")["name"])
    return with_device_count(run["parameters"], sections, n_devices) if sections else None


def _what_follows(api: Api, run: Json) -> str:
    """Return what to say of the pipeline that a stage is of, and that has ended without it; empty: there is none."""
    if run["parent_task_run_id"] is None:
        return ""
    parent = api.call("GET", f"/task_runs/{run['parent_task_run_id']}")["flow_run_id"]
    pipeline = api.call("GET", f"/flow_runs/{parent}")
    if pipeline["state_type"] not in ENDED or pipeline["state_type"] == "COMPLETED":
        return ""
    return f"; its pipeline is {pipeline['state_name']}: `yard resume {parent}` does what follows, now or later"


def _wait(api: Api, run: Json, until: datetime | None = None) -> None:
    """Let a run wait for its turn, from a time on; None: from now on, by the server's clock.

    Raises:
        ConfigError: the server refuses.
    """
    state = {
        "type": "SCHEDULED",
        "name": "AwaitingRetry",
        "message": f"resumed by {asker()}",
        "state_details": {"scheduled_time": until.isoformat()} if until is not None else {},
    }
    answer = api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    if answer["status"] != "ACCEPT":
        raise ConfigError(f"run {run['id']} cannot be resumed: {answer['details'].get('reason') or answer['status']}")
