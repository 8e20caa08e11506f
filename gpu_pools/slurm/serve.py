"""The service that hands runs to Slurm: `python -m gpu_pools.slurm.serve`; `yard up` starts it where sbatch is."""

import os
import signal
import threading
from types import FrameType

from gpu_pools.names import host_name
from gpu_pools.placement.queues import POOL_TYPE
from gpu_pools.prefect_client import PoolClient
from gpu_pools.slurm.commands import Slurm, config_file, is_here
from gpu_pools.slurm.dispatch import HEARTBEAT_S, QUEUES, SlurmDispatcher
from gpu_pools.slurm.hidden import hide
from gpu_pools.slurm.records import Records
from gpu_pools.slurm.request import HOST
from gpu_pools.worker.program import as_program, once_answered
from gpu_pools.worker.serve import GpuProcessWorker
from tasks.base.errors import ConfigError

_TICK_S = 0.5


def serve() -> None:
    """Hand what waits for Slurm to it until asked to stop; its jobs go on, and the next service finds them.

    Raises:
        ConfigError: another process does that for this home, no Slurm is here, or no server.
    """
    if host_name() == HOST:
        raise ConfigError(f"found a host called {HOST!r}, as the queues of the cluster are: give it another name")
    if not is_here():
        raise ConfigError("found no Slurm: need sbatch in PATH, and its configuration in /etc/slurm or SLURM_CONF")
    asked = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    client = PoolClient()
    records = Records()
    hide(os.environ)
    _prepare(client, asked)
    dispatcher = SlurmDispatcher(client, records, Slurm())
    print(f"{HOST} serves {' '.join(queue.name for queue in QUEUES)}, by {config_file()}", flush=True)
    while not asked.is_set():
        dispatcher.tick()
        asked.wait(_TICK_S)
    dispatcher.close()


def _prepare(client: PoolClient, asked: threading.Event) -> None:
    """Make the queues that are missing, and say that the service lives."""

    def make() -> None:
        client.ensure_pool(POOL_TYPE, GpuProcessWorker.get_default_base_job_template())
        known = {queue.name for queue in client.queues()}
        for queue in QUEUES:
            if queue.name not in known:
                client.create_queue(queue.name, None)
        client.heartbeat(HOST, HEARTBEAT_S)

    once_answered(make, asked.wait)


def main() -> None:
    """Serve the queues of Slurm."""
    as_program(serve)


if __name__ == "__main__":
    main()
