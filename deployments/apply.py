"""Brings pool, queues and deployments to Prefect's server, from prefect.yaml and TRAINYARD_FLOWS.

`python -m deployments.apply` waits for the server that PREFECT_API_URL names. Done twice it changes nothing, and what
people have changed stays: the limit of a queue, a schedule that was switched on or off.
"""

import inspect
import os
import sys
import time
from collections.abc import AsyncIterator, Container
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from deployments.inbox.places import make_inbox
from deployments.notices.channels import ensure_channels
from deployments.runs.flow_list import entrypoints, load_flow
from deployments.runs.local import data_parameter, device_sections
from deployments.runs.prefect_http import asking
from deployments.services.programs import POOL_IS_THERE
from deployments.services.service import START_LIMIT_S, ServiceError, healthy
from gpu_pools.names import ADMINS_VARIABLE, BOOKING_HOURS_VARIABLE, host_name
from gpu_pools.placement.probe import get_probe, visible
from gpu_pools.placement.queues import POOL, POOL_TYPE, Queue, device_queue, host_queues
from gpu_pools.prefect_pages import PAGE
from gpu_pools.project_flows import OLD_NAME, deployment_name, flow_of
from gpu_pools.sharing.settings import read_settings
from gpu_pools.worker.permitted import more_flows
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.project_files import project_file

SPEC = project_file("prefect.yaml")


def apply(spec_file: Path = SPEC) -> int:
    """Bring the server up to date and return how many deployments it holds now.

    Raises:
        ConfigError: the pool is there with another type, a deployment cannot be read, or a flow of TRAINYARD_FLOWS.
        ServiceError: the server does not answer.
    """
    import anyio

    spec = yaml.safe_load(spec_file.read_text())
    spec["deployments"] += more_deployments()
    load_early(spec)
    ours = entrypoints().keys() & map(_flow_name, spec["deployments"])  # another file's flows have no inbox
    make_inbox([name for name in sorted(ours) if takes_data(name)])
    return anyio.run(_apply, spec)


def more_deployments() -> list[dict[str, Any]]:
    """Return the deployments of the flows that TRAINYARD_FLOWS names in full, as prefect.yaml would have them.

    A flow with a device waits for that which is its default, as a training; one without waits as a preparation.

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    return [
        {
            "name": deployment_name(name),
            "entrypoint": entrypoint,
            "description": (flow := load_flow(name)).description,
            "tags": ["own"],
            "work_pool": {"name": POOL, "work_queue_name": _queue_of(flow).name},
            "parameters": {},
        }
        for name, entrypoint in more_flows().items()
    ]


def _flow_name(deployment: dict[str, Any]) -> str:
    return flow_of(deployment["entrypoint"])


def takes_data(flow: str) -> bool:
    """Return whether people drop data for a flow: it takes some, and no pipeline starts it as its stage."""
    is_stage = deployment_name(flow).startswith("stage-")
    return not is_stage and data_parameter(load_flow(flow)) is not None


def _queue_of(flow: Any) -> Queue:
    sections = device_sections(flow)
    if not sections:
        return Queue("cpu", "preparation")
    default = inspect.signature(flow.fn).parameters[sections[0]].default
    return device_queue(getattr(default, "device", "cuda"), "training")


def load_early(spec: dict[str, Any]) -> None:
    """Import what the deployments need, in the time that the server takes to start.

    Raises:
        ServiceError: the server does not answer after that.
    """
    from prefect.flows import load_flow_from_entrypoint

    for deployment in spec["deployments"]:
        load_flow_from_entrypoint(deployment["entrypoint"])
    deadline = time.monotonic() + START_LIMIT_S
    while not healthy(f"{os.environ['PREFECT_API_URL']}/health"):
        if time.monotonic() > deadline:
            raise ServiceError(f"no answer from {os.environ['PREFECT_API_URL']} within {START_LIMIT_S} s")
        time.sleep(0.1)


async def _apply(spec: dict[str, Any]) -> int:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await ensure_pool(client)
        await ensure_queues(client)
        print(POOL_IS_THERE, flush=True)
        there = {(found.entrypoint, found.name) async for found in _deployments(client)}
        await tell_settings(client)
        for deployment in spec["deployments"]:
            await deploy(client, _as_called(deployment, there), spec)
        await ensure_notices(client)
    return len(spec["deployments"])


async def _deployments(client: Any) -> AsyncIterator[Any]:
    """Yield every deployment of the server, page by page."""
    n_read = 0
    while rows := await client.read_deployments(limit=PAGE, offset=n_read):
        for row in rows:
            yield row
        n_read += len(rows)


async def ensure_pool(client: Any) -> None:
    """Make the pool if it is missing, and give it the form of job variables that the worker of today knows.

    Raises:
        ConfigError: it is there, with a type that Prefect does not let anybody change.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    from gpu_pools.worker.serve import GpuProcessWorker

    template = GpuProcessWorker.get_default_base_job_template()
    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        try:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type=POOL_TYPE, base_job_template=template))
            return
        except ObjectAlreadyExists:  # a worker was faster
            pool = await client.read_work_pool(POOL)
    if pool.type != POOL_TYPE:
        raise ConfigError(f"found work pool {POOL!r} of type {pool.type!r}, need {POOL_TYPE!r}: delete it in Prefect")
    wanted = _as_filled_in(template, pool.base_job_template)
    if pool.base_job_template != wanted:
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=wanted))


def _as_filled_in(template: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the template with what people have put into the pool's page: other defaults, and fields of their own."""
    ours = template["variables"]["properties"]
    theirs = known.get("variables", {}).get("properties", {})
    defaults = {name: {"default": field["default"]} for name, field in theirs.items() if "default" in field}
    fields = {name: {**field, **defaults.get(name, {})} for name, field in ours.items()}
    return {
        "job_configuration": {**template["job_configuration"], **known.get("job_configuration", {})},
        "variables": {**template["variables"], "properties": {**theirs, **fields}},
    }


async def ensure_queues(client: Any) -> None:
    """Make the queues of this host that are missing, with their default limits; those that are there stay."""
    from prefect.exceptions import ObjectAlreadyExists

    gpus = visible(get_probe().devices(), os.environ.get("CUDA_VISIBLE_DEVICES"))  # as the worker sees them
    known = {queue.name for queue in await client.read_work_queues(work_pool_name=POOL)}
    for queue, limit in host_queues(gpus, host_name()).items():
        if queue.name not in known:
            try:
                await client.create_work_queue(name=queue.name, work_pool_name=POOL, concurrency_limit=limit)
            except ObjectAlreadyExists:
                continue  # a worker was faster


async def tell_settings(client: Any) -> None:
    """Say on the server who the yard's admins are, and how much people may book: their commands do not see this home.

    Raises:
        ConfigError: the settings of the yard cannot be read.
    """
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    settings = read_settings()
    told = {ADMINS_VARIABLE: list(settings.admins), BOOKING_HOURS_VARIABLE: settings.bookings.hours_a_week}
    for name, value in told.items():
        known = await client.read_variable_by_name(name)
        if known is None and value:
            await client.create_variable(VariableCreate(name=name, value=value))
        elif known is not None and known.value != value:
            await client.update_variable(VariableUpdate(name=name, value=value))


async def ensure_notices(client: Any) -> None:
    """Bring the yard's kind of block, and an automation for each recipient of notices.

    Raises:
        ConfigError: the settings of the yard cannot be read.
    """
    from deployments.notices.notice_block import YardNotice

    await YardNotice.register_type_and_schema(client=client)
    with asking(os.environ["PREFECT_API_URL"]) as call:
        ensure_channels(call, read_settings().notices)


def _as_called(deployment: dict[str, Any], there: Container[tuple[str | None, str]]) -> dict[str, Any]:
    """Return a deployment under the name that it has on the server: one without the yard's guard keeps the old names.

    A second deployment of the same flow, under a name that a person gave it, is one of its own.

    Args:
        there: (entrypoint, name) of what the server has.
    """
    entrypoint, name = deployment["entrypoint"], deployment["name"]
    had_old_name = name == deployment_name(flow_of(entrypoint))
    is_old = had_old_name and (entrypoint, name) not in there and (entrypoint, OLD_NAME) in there
    return {**deployment, "name": OLD_NAME} if is_old else deployment


async def deploy(client: Any, deployment: dict[str, Any], spec: dict[str, Any]) -> None:
    """Create or update one deployment as `prefect deploy` does.

    Raises:
        ConfigError: Prefect refuses it; with its words.
    """
    from prefect.cli.deploy._core import _run_single_deploy
    from rich.console import Console

    actions = {name: spec.get(name) for name in ("build", "push", "pull")}
    wanted = {**deployment}
    if deployment.get("schedules"):  # without any, those that people made on the server stay
        wanted["schedules"] = await _as_people_left_them(client, deployment)
    said = StringIO()
    try:
        # Prefect's own way: what `prefect deploy --all` by hand does later, must be the same.
        await _run_single_deploy(wanted, actions, client=client, console=Console(file=said), is_interactive=bool)
    except ValueError as exc:
        raise ConfigError(f"prefect.yaml: {deployment['entrypoint']}: {exc}") from exc


async def _as_people_left_them(client: Any, deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schedules of a deployment, each switched on or off as people left it, and those that people added.

    Prefect replaces all of them by what it is given.
    """
    from prefect.exceptions import ObjectNotFound

    schedules: list[dict[str, Any]] = deployment["schedules"]
    flow = flow_of(deployment["entrypoint"])
    try:
        known = await client.read_deployment_by_name(f"{flow}/{deployment['name']}")
    except ObjectNotFound:
        return schedules
    active = {schedule.slug: schedule.active for schedule in known.schedules}
    ours = [
        {**schedule, "active": active.get(schedule["slug"], schedule.get("active", True))} for schedule in schedules
    ]
    slugs = {schedule["slug"] for schedule in schedules}
    return ours + [_as_written(schedule) for schedule in known.schedules if schedule.slug not in slugs]


def _as_written(schedule: Any) -> dict[str, Any]:
    """Return a schedule of the server as prefect.yaml would have it."""
    when = {name: value for name, value in schedule.schedule.model_dump(mode="json").items() if value is not None}
    if "interval" in when:
        when["interval"] = schedule.schedule.interval.total_seconds()
    return {**when, "active": schedule.active, "slug": schedule.slug, "parameters": schedule.parameters}


def main() -> None:
    """Bring the server that PREFECT_API_URL names up to date."""
    try:
        print(f"applied {apply()} deployments", flush=True)
    except TrainyardError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
