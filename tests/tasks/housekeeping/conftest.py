"""A real Prefect, and a home with runs in it whose records it has."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.testing.utilities import prefect_test_harness

from tasks.base.workspace import run_dir


@flow
def work(data: str = "") -> None:
    """Stand for any flow."""


class Yard:
    """Makes runs with folders."""

    def __init__(self, client: SyncPrefectClient, home: Path) -> None:
        self.client, self.home = client, home

    def run(
        self, state: str = "COMPLETED", *, keep: str = "", data: str = "", tags: Any = (), folder: bool = True
    ) -> str:
        """Make a run in a state; its folder holds a checkpoint and weights."""
        made = self.client.create_flow_run(
            work, parameters={"data": data}, tags=tags, job_variables={"keep_files": keep} if keep else {}
        )
        self.state(str(made.id), state)
        if folder:
            training = run_dir(str(made.id)) / "training"
            training.mkdir()
            for name in ("checkpoint.pt", "best.pt", "last.pt"):
                (training / name).write_bytes(b"x" * 5000)
        return str(made.id)

    def state(self, run_id: str, state: str) -> None:
        """Set the state of a run."""
        self.client.set_flow_run_state(run_id, State[Any](type=StateType(state)), force=True)

    def there(self, run_id: str) -> bool:
        """Return whether the folder of a run is there."""
        return (self.home / "runs" / run_id).is_dir()


@pytest.fixture(scope="package")
def prefect_api() -> Iterator[None]:
    """Prefect's API with a database that is thrown away; it ends before other tests start one of their own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def yard(
    prefect_api: None, with_mlflow_tables: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Yard]:
    """A home of its own, with MLflow's database in it."""
    with_mlflow_tables(tmp_path)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with get_client(sync_client=True) as client:
        yield Yard(client, tmp_path)
