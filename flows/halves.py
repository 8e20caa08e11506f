"""How a pipeline starts its halves: as runs of their own where it was deployed itself, else in its own process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import deployment, flow_run

from gpu_pools.names import asker
from gpu_pools.queues import Queue
from gpu_pools.stopping import pause
from tasks.errors import TrainyardError

DEPLOYMENT = "yard"
_POLL_S = 1.0
_INHERITED = ("priority", "owner", "time_limit", "when_busy")


def half(recipe: Flow[..., Any], queue: Queue, **parameters: Any) -> None:
    """Run a half of the running pipeline to its end; what it makes lies in the folder of the pipeline's run.

    A pipeline that was started from a deployment hands its half to a queue and waits, without a slot of a device;
    when it is started again, it finds the half it had started. One that runs in a person's own process calls it.

    Args:
        recipe: the flow; its deployment is called `yard`.
        queue: of the half.
        parameters: of the flow.

    Raises:
        TrainyardError: the half failed, or was cancelled; says why. In a person's own process, the half's own error.
    """
    if deployment.id is None:
        recipe(**parameters)
        return
    (ended,) = run_queued(recipe, queue, [parameters], name=str(flow_run.name))
    if fault := fault_of(recipe, ended):
        raise TrainyardError(fault)


def run_queued(
    recipe: Flow[..., Any], queue: Queue, requests: Sequence[Mapping[str, Any]], *, name: str | None = None
) -> list[FlowRun]:
    """Hand runs to a queue, all at once, and wait for them; started again, the flow finds those it had started.

    Args:
        recipe: the flow; its deployment is called `yard`.
        queue: of the runs.
        requests: the parameters of each.
        name: of the runs; None: as the flow names them.

    Returns:
        The runs as they ended, in the order of the requests.
    """
    parent = str(flow_run.id)
    with get_client(sync_client=True) as client:
        # Whoever the pipeline belongs to, its halves do: also where that is a schedule, and no variable says so.
        variables = {"owner": asker(), **(client.read_flow_run(flow_run.id).job_variables or {})}
        started: list[Any] = [
            run_deployment(
                f"{recipe.name}/{DEPLOYMENT}",
                parameters=recipe.serialize_parameters(dict(parameters)),
                flow_run_name=name,
                work_queue_name=queue.name,
                idempotency_key=f"{parent}-{recipe.name}-{number}",
                job_variables={key: variables[key] for key in _INHERITED if key in variables},
                timeout=0,
            )
            for number, parameters in enumerate(requests)
        ]
        return [_wait(client, run) for run in started]


def fault_of(recipe: Flow[..., Any], run: FlowRun) -> str | None:
    """Return why a run that has ended did not complete, in its own words; None where it did."""
    assert run.state is not None
    if run.state.is_completed():
        return None
    return f"{recipe.name} ({run.name}) is {run.state.name}: {run.state.message}"


def _wait(client: SyncPrefectClient, started: FlowRun, sleep: Callable[[float], None] = pause) -> FlowRun:
    while True:
        found = client.read_flow_run(started.id)
        assert found.state is not None
        if found.state.is_final():  # one whose process died is no more than waiting until it is given up
            return found
        sleep(_POLL_S)
