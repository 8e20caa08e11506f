"""Moves runs that wait to another device; they keep their place, their id and their owner."""

import json
from typing import Any

from deployments.api import Api, Json
from deployments.runs.flow_list import load_flow
from deployments.runs.local import check_parameters, device_sections
from deployments.runs.run_actions import waiting_of
from deployments.runs.submit import place_on
from gpu_pools.placement.queues import MOVED, parse_queue, queue_of
from tasks.base.errors import ConfigError


def move(api: Api, run: Json, device: str) -> list[Json]:
    """Let a run that waits, or the waiting stage of a pipeline, wait for another device; return the runs moved.

    Prefect keeps the queue that a run was made in, and takes no other one. So the run says itself which it waits in
    now, by a job variable that the workers go by; its parameters name the device, too.

    Args:
        api: of the server.
        run: as the server has it.
        device: `cuda`, `cuda:1`, `cpu` or `boxb/cuda:1`.

    Raises:
        ConfigError: neither it nor a stage of it waits, or it waits for that device already.
        GpuError: there is no such device for it; names those that there are.
    """
    waiting = waiting_of(api, run)
    if not waiting:
        raise ConfigError(f"run {run['id']} ({run['name']}) is {run['state_name']}: only what waits can be moved")
    changes = [(found, _change(api, found, device)) for found in waiting]
    for found, change in changes:
        api.call("PATCH", f"/flow_runs/{found['id']}", change)
    return waiting


def _change(api: Api, run: Json, device: str) -> Json:
    """Return what is to be changed of a run."""
    parameters: Json = json.loads(json.dumps(run["parameters"]))
    flow = load_flow(api.flow_names([run["flow_id"]])[run["flow_id"]])
    before, sections = parse_queue(queue_of(run)), device_sections(flow)
    queue = place_on(api, before, parameters, device, sections)
    if queue is None and (before.kind != "pipeline" or parameters == run["parameters"]):
        raise ConfigError(f"run {run['id']} ({run['name']}) waits for {device} already")
    check_parameters(flow, parameters)
    change: dict[str, Any] = {"parameters": parameters}
    if queue is not None:
        change["job_variables"] = {**(run["job_variables"] or {}), MOVED: queue.name}
    return change
