"""A state folder for tests of what runs leave in MLflow."""

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory, with_mlflow_tables):
    """A state folder of its own with MLflow's tables."""
    path = tmp_path_factory.mktemp("home")
    with_mlflow_tables(path)
    return path


@pytest.fixture
def at_home(home, monkeypatch):
    """Make `home` the state folder."""
    monkeypatch.setenv("TRAINYARD_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
