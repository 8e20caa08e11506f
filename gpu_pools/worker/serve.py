"""The worker of a host: `python -m gpu_pools.worker.serve`, or `prefect worker start --pool gpu`."""

import argparse
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

import httpx
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
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
from gpu_pools.worker.dispatch import Dispatcher
from gpu_pools.worker.permitted import RUN_VARIABLES
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.home import make_home
from tasks.base.servers.password import CLIENT, known_password

logger = logging.getLogger("trainyard.worker")

TICK_S = 0.5
START_LIMIT_S = 60
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


class _Signals:
    """Counts the requests to stop, and wakes the loop at each and at the end of every child."""

    def __init__(self) -> None:
        self.drain = 0
        self.now = False
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_drain)
        signal.signal(signal.SIGUSR1, self._on_now)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_drain(self, signum: int, frame: FrameType | None) -> None:
        self.drain += 1
        self.now = self.now or self.drain > 1

    def _on_now(self, signum: int, frame: FrameType | None) -> None:
        self.drain, self.now = max(1, self.drain), True

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or at a signal."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)


def serve(name: str, *, tick_s: float = TICK_S) -> None:
    """Run what the pool has for this host until asked to stop; then wait for what runs, or put it back.

    Raises:
        ConfigError: a worker of that name is running here, or a setting is wrong.
        GpuError: the GPUs cannot be read.
    """
    port = metrics_port(name)
    signals = _Signals()
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
        elif signals.drain and not draining:
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


def once_answered(ask: Callable[[], None], pause: Callable[[float], object]) -> None:
    """Ask Prefect's server, again while one that is about to start does not answer.

    Args:
        ask: raises httpx.HTTPError where it does not answer.
        pause: waits so many seconds; something true ends it all.

    Raises:
        ConfigError: it has not answered for a minute.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return ask()
        except httpx.HTTPError as exc:
            if time.monotonic() > deadline:
                url = os.environ.get("PREFECT_API_URL", "PREFECT_API_URL, which is not set")
                raise ConfigError(f"found no Prefect server within {START_LIMIT_S} s at {url}: {exc}") from exc
        if pause(1):
            return None


def as_program(serve: Callable[[], None]) -> None:
    """Run a service of the pool as a program: with the log of its own, the password it knows, and errors as a line."""
    # Here, not at the service's start: Prefect reads its settings when it is imported.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        # The next tick asks again, and until then the other runs are looked after.
        settings: dict[Any, Any] = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 10}
        make_home()
        if known := known_password(os.environ.get("PREFECT_API_URL", "")):
            settings[PREFECT_API_AUTH_STRING] = os.environ[CLIENT] = known  # its runs inherit it
        with temporary_settings(settings):
            serve()
    except TrainyardError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """Serve the pool `gpu`."""
    parser = argparse.ArgumentParser(description=f"Runs the flow runs of the work pool `{POOL}` on this host.")
    parser.add_argument("--name", default=host_name(), help="of the worker, as Prefect's pages show it")
    name = parser.parse_args().name
    as_program(lambda: serve(name))


if __name__ == "__main__":
    main()
