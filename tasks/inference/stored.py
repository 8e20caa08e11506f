"""Fetches models from MLflow by run, by version, or by alias."""

import re
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.base.errors import ConfigError, TrackingError, WeightsError
from tasks.base.workspace import allowed_path
from tasks.classification.grading.promotion import CONFIG, WEIGHTS
from tasks.inference.params import PredictParams
from tasks.inference.weights import ModelFiles, configured, from_file, read_config
from tasks.tracking import mlflow_api, registry
from tasks.tracking.uploader import first_line

_RUN = re.compile(r"runs:/(?P<run>\w+)(/.*)?", re.ASCII)
_MODEL = re.compile(r"models:/(?P<name>[^/:'@]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))", re.ASCII)
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def find_model(params: PredictParams, folder: Path) -> ModelFiles:
    """Return the model that `params.weights` names.

    Args:
        params: which one, and what is known of it.
        folder: an existing one of the run's own, for what comes from MLflow.

    Raises:
        WeightsError: there is no such file, run or model; for a registered model the message says what to train.
        ConfigError: the address means nothing, architecture or classes are not known, or a file lies outside the
            allowed roots.
        TrackingError: MLflow does not answer.
    """
    address = params.weights
    if found := _RUN.fullmatch(address):
        return _of_run(found["run"], params, folder, name=f"run {found['run']}", version=None)
    if found := _MODEL.fullmatch(address):
        version = _version(found["name"], found["alias"], found["version"])
        return _of_run(version.run_id, params, folder, name=found["name"], version=str(version.version))
    if re.match(r"(runs|models):", address):
        raise ConfigError(f"found weights={address}, need runs:/ID, models:/NAME@ALIAS or models:/NAME/NUMBER")
    return from_file(allowed_path(Path(address)), params)


def _version(name: str, alias: str | None, number: str | None) -> ModelVersion:
    client = mlflow_api.client()
    wanted = f"{name}@{alias}" if alias else f"{name}/{number}"
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(number))
    except MlflowException as exc:
        if exc.error_code not in _ABSENT:
            raise TrackingError(f"cannot ask MLflow for {wanted}: {first_line(exc)}") from exc
        raise WeightsError(
            f"found no model {wanted} in MLflow at {mlflow_api.public_uri(mlflow_api.tracking_uri())}: train one "
            f"(`yard run classification`), or name another in predict.weights"
        ) from exc
    except mlflow_api.TRANSIENT as exc:
        raise TrackingError(f"cannot ask MLflow for {wanted}: {first_line(exc)}") from exc


def _of_run(run_id: str | None, params: PredictParams, folder: Path, *, name: str, version: str | None) -> ModelFiles:
    if lost := registry.why_lost(run_id, [WEIGHTS, CONFIG]):
        raise WeightsError(f"the weights of {name} cannot be had: {lost}")
    assert run_id is not None, "a version without a run has lost its files"
    weights, config = registry.fetch(run_id, [WEIGHTS, CONFIG], folder)
    return ModelFiles(weights, configured(read_config(config), params, name), name, version)
