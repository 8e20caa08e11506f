"""An MLflow store of a module's own."""

import pytest

from tasks.tracking import mlflow_api


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield mlflow_api.client()


@pytest.fixture(scope="module")
def experiment(client, tmp_path_factory):
    """One whose files lie apart: those of MLflow's own experiment go below the folder the tests run in."""
    return client.create_experiment("models", artifact_location=tmp_path_factory.mktemp("artifacts").as_uri())
