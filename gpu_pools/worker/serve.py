"""The worker of a host: `python -m gpu_pools.worker.serve`, or `prefect worker start --pool gpu`."""

import argparse
import logging
import time
from typing import Any, Literal

from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult
from pydantic import Field

from gpu_pools.names import host_name, worker_label
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import POOL, POOL_TYPE
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.memory_peaks import MemoryForecasts
from gpu_pools.slots.ledger import Ledger
from gpu_pools.slurm.request import SlurmRequest
from gpu_pools.watching.exporter import Exporter, metrics_port
from gpu_pools.worker.dispatch import TICK_S, Dispatcher
from gpu_pools.worker.permitted import RUN_VARIABLES
from gpu_pools.worker.program import StopSignals, as_program, once_answered

logger = logging.getLogger("trainyard.worker")

_CLOSING_S = 15.0  # a worker that stops waits so long for MLflow to be told; the next one goes on with that


class GpuProcessVariables(SlurmRequest, BaseVariables):
    """What the form of a run in Prefect's page asks for, beside the flow's own parameters."""

    priority: int | None = Field(
        default=None, ge=1, le=10, description="1 is first; training 5 and inference 3 if empty."
    )
    when_busy: Literal["wait", "refuse"] = Field(
        default="wait", description="Wait for a free slot, or be cancelled at once with the reason."
    )
    time_limit: str | None = Field(default=None, description="Stopped after that long: 90s, 30m, 5h, 2d.")
    keep_files: str | None = Field(
        default=None, description="Its folder is removed that long after its end: 12h, 7d. MLflow keeps the results."
    )
    owner: str | None = Field(default=None, description="Whose run it is, as others read it: user@host.")
    on: Literal["slurm", "kubernetes"] | None = Field(
        default=None, description="Of a pipeline: its stages are jobs of that engine."
    )
    env: dict[str, str | None] = Field(
        default_factory=dict,
        title="Environment Variables",
        description=f"One of {', '.join(sorted(RUN_VARIABLES))}; a run that sets another one fails.",
    )


class GpuProcessWorker(BaseWorker[BaseJobConfiguration, GpuProcessVariables, BaseWorkerResult]):
    """A work pool's type: every run a process of its own, on a slot that kernel locks hold.

    Prefect knows it by this class; the work is the `Dispatcher`'s, which outlives what a worker of Prefect's own
    does not: its runs' processes go on when it dies.
    """

    type = POOL_TYPE
    job_configuration = BaseJobConfiguration
    job_configuration_variables = GpuProcessVariables

    _display_name = "GPU process"
    _description = "Runs wait for a slot on a GPU, and have it to themselves."
    _logo_url = ""

    async def run(self, *args: Any, **kwargs: Any) -> BaseWorkerResult:
        """Refuse: runs are started by the dispatcher alone."""
        raise NotImplementedError("runs of a gpu-process pool are started by `python -m gpu_pools.worker.serve`")

    async def start(self, *args: Any, **kwargs: Any) -> None:
        """Serve the pool until asked to stop; `prefect worker start` comes here."""
        serve(host_name() if self.name.startswith(type(self).__name__) else self.name)


def serve(name: str, *, tick_s: float = TICK_S) -> None:
    """Run what the pool has for this host until asked to stop; then wait for what runs, or put it back.

    Raises:
        ConfigError: a worker of that name is running here, or a setting is wrong.
        GpuError: the GPUs cannot be read.
    """
    port = metrics_port(name)
    signals = StopSignals()
    client = PoolClient()
    host = HostState(host_name(), get_probe(), forecast=MemoryForecasts(client, time.time).of_run)
    ledger = Ledger(name.replace("/", "-"))
    _prepare(client, host)
    dispatcher = Dispatcher(worker_label(name), client, host, ledger, watched=port is not None)
    exporter = Exporter(port, get_probe()) if port is not None else None
    if exporter is not None:
        exporter.start()
    print(f"worker {name} serves {' '.join(host.tags)}", flush=True)
    draining = stopping = False
    idle_since = time.monotonic()
    while True:
        if signals.now and not stopping:
            stopping = draining = True
            dispatcher.stop_runs()
        elif signals.asked and not draining:
            draining = True
            dispatcher.drain()
            print(f"waits for {len(dispatcher.active)} runs; a second signal puts them back", flush=True)
        dispatcher.tick()
        if exporter is not None:
            exporter.publish(dispatcher.state())
        if dispatcher.active:
            idle_since = time.monotonic()
        if draining and (not dispatcher.busy or time.monotonic() - idle_since > _CLOSING_S):
            break
        signals.wait(tick_s)
    dispatcher.close()
    if exporter is not None:
        exporter.close()
    print(f"worker {name} has stopped", flush=True)


def _prepare(client: PoolClient, host: HostState) -> None:
    """Make pool and queues where they are missing."""

    def make() -> None:
        client.ensure_pool(POOL_TYPE, GpuProcessWorker.get_default_base_job_template())
        host.ensure_queues(client)

    once_answered(make, time.sleep)


def main() -> None:
    """Serve the pool `gpu`."""
    parser = argparse.ArgumentParser(description=f"Runs the flow runs of the work pool `{POOL}` on this host.")
    parser.add_argument("--name", default=host_name(), help="of the worker, as Prefect's pages show it")
    name = parser.parse_args().name
    as_program(lambda: serve(name))


if __name__ == "__main__":
    main()
