"""A stand-in for Prefect's server, and a worker's client of it."""

import pytest

from tests.gpu_pools.fake_prefect import fake_prefect, pool_client
from tests.gpu_pools.real_pool import real_pool


@pytest.fixture
def prefect():
    """Serve a stand-in for Prefect."""
    with fake_prefect() as prefect:
        yield prefect


@pytest.fixture
def client(prefect):
    """Yield a worker's client of the stand-in."""
    with pool_client() as client:
        yield client


@pytest.fixture(scope="module")
def on_a_real_server():
    """Run a real server with the pool for the tests of a file."""
    with real_pool():
        yield
