"""A host whose runs are real processes."""

import sys

import pytest

from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import get_probe
from gpu_pools.process.warm_process import WarmProcess
from gpu_pools.slots.ledger import Ledger
from gpu_pools.worker.dispatch import Dispatcher
from gpu_pools.worker.monitor import catch_up, mlflow_end
from tests.gpu_pools.worker.monitored import Host

_WRITE_DOWN = "import pathlib, sys; pathlib.Path(sys.argv[1], 'told').write_text(sys.argv[2])"


@pytest.fixture
def host(client, tmp_path, monkeypatch):
    """Yield a host; what MLflow would be told is in the file `told` of the run's folder."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr(mlflow_end, "COMMAND", (sys.executable, "-S", "-c", _WRITE_DOWN))
    monkeypatch.setattr(catch_up, "COMMAND", ("true",))
    host = Host(client)
    yield host
    host.close()


@pytest.fixture
def dispatcher(client, host, monkeypatch):
    """Yield a worker of the host `boxa` with one simulated GPU, and no process that is ready for a run."""
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(WarmProcess, "refill", lambda _: None)
    found = Dispatcher("boxa", client, HostState("boxa", get_probe()), Ledger("boxa"), clock=lambda: host.now)
    yield found
    found.close()
