"""A state folder for tests of what runs leave in MLflow."""

import pytest

from tasks.tracking import mlflow_api


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A state folder of its own with a laid-out database, which takes seconds to make."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(path))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mlflow_api.client().search_experiments()
    return path


@pytest.fixture
def at_home(home, monkeypatch):
    """Make `home` the state folder."""
    monkeypatch.setenv("TRAINYARD_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
