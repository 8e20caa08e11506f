"""Logs models that MLflow can serve, after they were loaded and asked once."""

import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature

from tasks.base.errors import TrackingError
from tasks.base.workspace import storage_errors
from tasks.tracking.mlflow_api import client as store_client
from tasks.tracking.registry import as_tracking_error


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as MLflow keeps and serves it: code, the files that the code reads, and what goes in and comes out."""

    name: str  # shown in MLflow, and the model's type
    code: Path  # a module that calls mlflow.models.set_model; it imports nothing of this project
    artifacts: Mapping[str, Path]  # files that the code asks for by these names
    signature: ModelSignature
    example: pd.DataFrame  # of input; the model is asked with it before it is logged
    check: Callable[[pd.DataFrame], str | None]  # takes the answer, returns what is wrong with it
    needs: Sequence[str]  # packages, pinned to the versions that are installed
    metadata: Mapping[str, Any] = field(default_factory=dict)


def log_served_model(run_id: str, model: ServedModel, *, step: int = 0, uri: str | None = None) -> str:
    """Log a model that MLflow can serve; return its address `models:/m-...`.

    It is loaded and predicts on the example before MLflow hears of it, so that a model that is READY works.
    Logged again by a restarted run, it is the one that is there.

    Args:
        run_id: the run it comes from.
        model: what is logged.
        step: the epoch of the weights.
        uri: of MLflow; empty: `tracking_uri()`.

    Raises:
        TrackingError: the model does not predict, or MLflow does not take it.
    """
    what = f"log the model of run {run_id}"
    with as_tracking_error(what, uri), tempfile.TemporaryDirectory(prefix="trainyard-model-") as tmp:
        client = store_client(uri)
        experiment_id = client.get_run(run_id).info.experiment_id
        if ready := _ready_model(client, experiment_id, run_id, model.name):
            return f"models:/{ready.model_id}"
        local = Path(tmp) / "model"
        with storage_errors(local):
            _save(local, model)
        _check(local, model)
        logged = client.create_logged_model(experiment_id, model.name, run_id, model_type=model.name)
        _upload(client, logged, run_id, local, step)
    return f"models:/{logged.model_id}"


def _save(local: Path, model: ServedModel) -> None:
    folder = local.parent / "artifacts"
    folder.mkdir()
    # By the names the code knows them by: whoever looks into the model finds the same ones, whatever they were called.
    named = {name: folder / f"{name}{path.suffix}" for name, path in model.artifacts.items()}
    for name, path in model.artifacts.items():
        shutil.copyfile(path, named[name])
    mlflow.pyfunc.save_model(
        path=str(local),
        python_model=str(model.code),
        artifacts={name: str(path) for name, path in named.items()},
        signature=model.signature,
        input_example=model.example,
        # Given, not inferred: inferring starts a process that imports everything, and asks PyPI.
        pip_requirements=[f"{name}=={package_version(name)}" for name in model.needs],
        metadata=dict(model.metadata),
    )
    shutil.rmtree(folder)


def _check(local: Path, model: ServedModel) -> None:
    source = ", ".join(str(path) for path in model.artifacts.values() if path.suffix != ".py")
    try:
        answer = mlflow.pyfunc.load_model(str(local)).predict(model.example)
    except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError, MlflowException) as exc:
        raise TrackingError(f"{source} do not make a model that predicts: {exc}") from exc
    if fault := model.check(answer):
        raise TrackingError(f"the model of {source} {fault}")


def _upload(client: MlflowClient, model: LoggedModel, run_id: str, local: Path, step: int) -> None:
    try:
        description = Model.load(str(local))
        description.model_id = description.model_uuid = model.model_id
        description.run_id = run_id
        description.artifact_path = model.artifact_location
        description.save(str(local / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(local))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _ready_model(client: MlflowClient, experiment_id: str, run_id: str, name: str) -> LoggedModel | None:
    """Return the model the run has logged; what a killed attempt left half written is removed."""
    for found in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if found.name == name and found.status == LoggedModelStatus.READY:
            return found
        if found.name == name:
            client.delete_logged_model(found.model_id)
    return None
