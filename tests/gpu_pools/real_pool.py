"""A real Prefect server with our pool, for what a fake one cannot say."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Scheduled
from prefect.testing.utilities import prefect_test_harness

from gpu_pools.placement.queues import POOL


@flow
def train() -> None:
    """Do nothing; the tests give its runs their states."""


@contextmanager
def real_pool() -> Iterator[None]:
    """Run a server with the pool for the block."""
    with prefect_test_harness(server_startup_timeout=120):
        with get_client(sync_client=True) as client:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        yield


def add_run(client: SyncPrefectClient, queue: str, **variables: Any) -> str:
    """Add a run of a queue that waits; return its id.

    Args:
        client: of the server.
        queue: of the pool.
        variables: its job variables.
    """
    deployment = client.create_deployment(
        client.create_flow(train), "nightly", work_pool_name=POOL, work_queue_name="cuda.training"
    )
    run = client.create_flow_run_from_deployment(
        deployment, work_queue_name=queue, job_variables=variables, state=Scheduled()
    )
    return str(run.id)
