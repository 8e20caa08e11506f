"""Starts the stages of a pipeline, in their queues or in its own process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment, flow_run
from prefect.states import AwaitingRetry

from gpu_pools import kubernetes
from gpu_pools.device_count import device_count
from gpu_pools.names import asker
from gpu_pools.placement.queues import Queue
from gpu_pools.process.run_files import bring_results, portable_parameters
from gpu_pools.project_flows import full_names
from gpu_pools.server_clock import ServerClock
from gpu_pools.slots.local_slot import on_device
from gpu_pools.slurm.request import FIELDS, HOST, ON
from gpu_pools.stopping import pause
from tasks.base.errors import ConfigError, StageError
from tasks.base.workspace import run_dir, write_atomic

_POLL_S = 1.0
_INHERITED = ("priority", "owner", "time_limit", "when_busy", ON, *FIELDS)


def run_stage(recipe: Flow[..., Any], queue: Queue, *, refusable: bool = True, **parameters: Any) -> None:
    """Run a stage of the running pipeline to its end; what it makes lies in the folder of the pipeline's run.

    A pipeline that was started from a deployment hands its stage to a queue and waits, without a slot of a device; one
    that runs in a person's own process calls it. Either, when it is started again, leaves out what was done.

    Args:
        recipe: the flow; it has a deployment.
        queue: of the stage.
        refusable: off: it waits for its turn also where the pipeline is to be refused rather than to wait.
        parameters: of the flow.

    Raises:
        StageError: the stage failed, was cancelled or out of time; says why. In a person's own process, the stage's own
            error.
    """
    if deployment.id is None:
        if not _mark(recipe).is_file():
            recipe(**parameters)
            write_atomic(_mark(recipe), b"")
        return
    (ended,) = run_queued(recipe, queue, [parameters], name=str(flow_run.name), refusable=refusable)
    if fault := failure_of(recipe, ended):
        raise StageError(fault, str(ended.state_name))


@contextmanager
def hold_device(recipe: Flow[..., Any], device: str, n_devices: int = 1) -> Iterator[None]:
    """Hold a device, or several, for the block in a person's own process, where the stage that computes is not done.

    CUDA's context stays until such a process ends, and with it the GPU's memory: whoever else wants the GPU is told
    "waits for run X" as long as the slot is held, and "foreign process" from then on. Stages in queues have their own
    slots.

    Args:
        recipe: the stage that computes.
        device: `cpu`, `cuda` or `cuda:N`.
        n_devices: that it computes on at once.
    """
    if deployment.id is None and not _mark(recipe).is_file():
        with on_device(device, "training", n_devices):
            yield
    else:
        yield


def _mark(recipe: Flow[..., Any]) -> Path:
    """Return the file that says that a stage of the running pipeline was done in a person's own process."""
    return run_dir(str(flow_run.id)) / "done" / recipe.name


def run_queued(
    recipe: Flow[..., Any],
    queue: Queue,
    requests: Sequence[Mapping[str, Any]],
    *,
    name: str | None = None,
    refusable: bool = True,
) -> list[FlowRun]:
    """Hand runs to a queue, all at once, and wait for them.

    Started again, the flow finds those it had started; of these, the ones that did not end well are started again, too.

    Args:
        recipe: the flow; it has a deployment.
        queue: of the runs; where the running flow was asked for on Slurm, it is Slurm's.
        requests: the parameters of each.
        name: of the runs; None: as the flow names them.
        refusable: off: they wait for their turn whatever the running flow was told.

    Returns:
        The runs as they ended, in the order of the requests.
    """
    parent, clock = str(flow_run.id), ServerClock()
    with get_client(httpx_settings={"event_hooks": {"response": [clock.note]}}, sync_client=True) as client:
        # The stages belong to the owner of the pipeline, also where a schedule started it and no variable says so.
        variables = {"owner": asker(), **(client.read_flow_run(flow_run.id).job_variables or {})}
        if not refusable:
            variables["when_busy"] = "wait"
        if variables.get(ON) == HOST:
            queue = replace(queue, host=HOST)
        in_pods = variables.get(ON) == kubernetes.POOL
        deployed = _deployment_id(
            client, [kubernetes.deployment_name(recipe.name)] if in_pods else full_names(recipe.name)
        )
        as_json = [portable_parameters(recipe.serialize_parameters(dict(parameters))) for parameters in requests]
        started: list[Any] = [
            run_deployment(
                deployed,
                parameters=parameters,
                flow_run_name=name,
                scheduled_time=clock.date(),
                work_queue_name=None if in_pods else queue.name,
                idempotency_key=f"{parent}-{recipe.name}-{number}",
                job_variables=stage_variables(variables, queue, parameters),
                timeout=0,
            )
            for number, parameters in enumerate(as_json)
        ]
        for run in started:
            _again(client, run, clock)
        ended = [_wait(client, run) for run in started]
    bring_results(parent)
    return ended


def stage_variables(variables: Mapping[str, Any], queue: Queue, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job variables of a stage, from those of its pipeline."""
    inherited = {key: variables[key] for key in _INHERITED if key in variables}
    if variables.get(ON) != kubernetes.POOL:
        return inherited
    n_gpus = 0 if queue.device == "cpu" else device_count(parameters)
    return {**inherited, **kubernetes.pod_variables(inherited, n_gpus)}


def _deployment_id(client: SyncPrefectClient, names: Sequence[str]) -> UUID:
    """Return the deployment that has the first of these names that there is.

    Raises:
        ConfigError: the server has none.
    """
    for name in names:
        try:
            return client.read_deployment_by_name(name).id
        except ObjectNotFound:
            continue
    maker = "python -m deployments.kubernetes" if names[0].endswith(f"/{kubernetes.POOL}") else "yard up"
    raise ConfigError(f"found no deployment {names[0]} on Prefect's server: `{maker}` makes it")


def failure_of(recipe: Flow[..., Any], run: FlowRun) -> str | None:
    """Return why a run that has ended did not complete, in its own words; None where it did."""
    assert run.state is not None
    if run.state.is_completed():
        return None
    return f"{recipe.name} ({run.name}) is {run.state.name}: {run.state.message}"


def _again(client: SyncPrefectClient, run: FlowRun, clock: ServerClock) -> None:
    """Put a run into its queue again that an earlier attempt of the running flow had started, and that had failed."""
    if run.state is not None and run.state.is_final() and not run.state.is_completed():
        client.set_flow_run_state(run.id, AwaitingRetry(scheduled_time=clock.date()))


def _wait(client: SyncPrefectClient, started: FlowRun, sleep: Callable[[float], None] = pause) -> FlowRun:
    while True:
        found = client.read_flow_run(started.id)
        assert found.state is not None
        if found.state.is_final():  # a run whose process died counts as waiting until it is given up
            return found
        sleep(_POLL_S)
