"""A home and an MLflow store of a module's own, and a folder for results."""

import pytest

from tasks.tracking import mlflow_api


@pytest.fixture
def target(tmp_path):
    """An empty folder for results."""
    path = tmp_path / "target"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def own_home(tmp_path_factory):
    """A home for all tests of a file, whose MLflow is a database of its own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield home


@pytest.fixture(scope="module")
def client(own_home):
    """A client of a store of its own."""
    return mlflow_api.client()


@pytest.fixture(scope="module")
def experiment(client, tmp_path_factory):
    """One whose files lie apart: those of MLflow's own experiment go below the folder the tests run in."""
    return client.create_experiment("models", artifact_location=tmp_path_factory.mktemp("artifacts").as_uri())
