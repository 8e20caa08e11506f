"""One Prefect of its own for all flows tested, and one state folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """Prefect's API with a database that is thrown away."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def yard_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder for the runs; MLflow is the database in it, as for a run without a server."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("TRAINYARD_ALLOWED_ROOTS", raising=False)
        patch.chdir(home)  # what is written to the current folder by mistake is found there
        yield home
