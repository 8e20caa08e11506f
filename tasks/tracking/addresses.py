"""Finds the run of a model by its address in MLflow: by run, by version, or by alias."""

import re
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.base.errors import ConfigError, TrackingError, WeightsError
from tasks.tracking import mlflow_api
from tasks.tracking.uploader import first_line

_RUN = re.compile(r"runs:/(?P<run>\w+)(/.*)?", re.ASCII)
_MODEL = re.compile(r"models:/(?P<name>[^/:'@]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))", re.ASCII)
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that MLflow knows."""

    run_id: str | None  # of the run that it comes from; a version that was registered by hand may have none
    name: str  # as people call it
    version: int | None  # of a registered model


def is_address(text: str) -> bool:
    """Return whether a text names something in MLflow rather than a file."""
    return re.match(r"(runs|models):", text) is not None


def find_model(address: str, parameter: str, advice: str) -> FoundModel:
    """Return the model that an address names.

    Args:
        address: runs:/ID, models:/NAME@ALIAS or models:/NAME/NUMBER.
        parameter: where the address stands, for messages.
        advice: how one gets such a model, for messages.

    Raises:
        ConfigError: the address means nothing.
        WeightsError: there is no such model.
        TrackingError: MLflow does not answer.
    """
    if found := _RUN.fullmatch(address):
        return FoundModel(found["run"], f"run {found['run']}", None)
    if found := _MODEL.fullmatch(address):
        version = _version(found["name"], found["alias"], found["version"], f"{advice}, or name another in {parameter}")
        return FoundModel(version.run_id, found["name"], int(version.version))
    raise ConfigError(f"found {parameter}={address}, need runs:/ID, models:/NAME@ALIAS or models:/NAME/NUMBER")


def _version(name: str, alias: str | None, number: str | None, advice: str) -> ModelVersion:
    client = mlflow_api.client()
    wanted = f"{name}@{alias}" if alias else f"{name}/{number}"
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(number))
    except MlflowException as exc:
        if exc.error_code not in _ABSENT:
            raise TrackingError(f"cannot ask MLflow for {wanted}: {first_line(exc)}") from exc
        where = mlflow_api.public_uri(mlflow_api.tracking_uri())
        raise WeightsError(f"found no model {wanted} in MLflow at {where}: {advice}") from exc
    except mlflow_api.TRANSIENT as exc:
        raise TrackingError(f"cannot ask MLflow for {wanted}: {first_line(exc)}") from exc
