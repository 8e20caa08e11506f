"""Registers models in MLflow, whole and once, and sets the alias of the champion."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.base.errors import TrackingError
from tasks.base.workspace import storage_errors
from tasks.tracking.mlflow_api import TRANSIENT, public_uri, tracking_uri
from tasks.tracking.mlflow_api import client as store_client
from tasks.tracking.uploader import first_line

CHAMPION = "champion"
T = TypeVar("T")


def register(
    model_name: str, run_id: str, model_uri: str, *, tags: Mapping[str, str] | None = None, uri: str | None = None
) -> int:
    """Make a logged model a version of a registered one; return its number. Again: the same number.

    Args:
        model_name: made when missing.
        run_id: the run it comes from.
        model_uri: from `served_models.log_served_model`.
        tags: written on the version, also on one that is there.
        uri: of MLflow; empty: `tracking_uri()`.

    Raises:
        ValueError: the name cannot be searched for.
        TrackingError: MLflow does not take it, or does not answer.
    """
    if "'" in model_name:
        raise ValueError(f"found a quote in the model name {model_name!r}, need one without")
    with as_tracking_error(f"register the model of run {run_id} as {model_name!r}", uri):
        client = store_client(uri)
        _answer(lambda: client.create_registered_model(model_name), "RESOURCE_ALREADY_EXISTS")
        found = _version_of(client, model_name, run_id)
        if found is None:
            # Its place, not its models:/ address, which MLflow would look up in the store of the environment.
            model = client.get_logged_model(model_uri.removeprefix("models:/"))
            found = client.create_model_version(model_name, model.artifact_location, run_id, model_id=model.model_id)
    number = int(found.version)
    annotate(model_name, number, tags=tags, uri=uri)
    return number


def annotate(
    model_name: str,
    version: int,
    *,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    uri: str | None = None,
) -> None:
    """Write tags and a description, such as a decision and its reasons, on a version.

    Raises:
        TrackingError: MLflow does not take it, or does not answer.
    """
    with as_tracking_error(f"write on version {version} of {model_name!r}", uri):
        client = store_client(uri)
        for key, value in (tags or {}).items():
            client.set_model_version_tag(model_name, str(version), key, value)
        if description:
            client.update_model_version(model_name, str(version), description)


def champion(model_name: str, uri: str | None = None) -> ModelVersion | None:
    """Return the version with the alias `champion`, or None while there is none.

    Raises:
        TrackingError: MLflow does not answer.
    """
    with as_tracking_error(f"ask for the champion of {model_name!r}", uri):
        client = store_client(uri)
        # MLflow answers a missing model with one code and a missing alias with the other.
        codes = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        return _answer(lambda: client.get_model_version_by_alias(model_name, CHAMPION), *codes)


def promote(model_name: str, version: int, *, instead_of: int | None, uri: str | None = None) -> bool:
    """Give the alias `champion` to a version; return whether it has it.

    Args:
        model_name: of the registered model.
        version: the new champion.
        instead_of: the version it was compared with, None if there was none. When another run has promoted
            its own model meanwhile, nothing changes, and the comparison is to be made again.
        uri: of MLflow; empty: `tracking_uri()`.

    Raises:
        TrackingError: MLflow does not take it, or does not answer.
    """
    now = champion(model_name, uri)
    number = None if now is None else int(now.version)
    if number == version:
        return True
    if number != instead_of:
        return False
    with as_tracking_error(f"make version {version} the champion of {model_name!r}", uri):
        store_client(uri).set_registered_model_alias(model_name, CHAMPION, str(version))
    return True


def why_lost(run_id: str | None, names: Sequence[str], uri: str | None = None) -> str | None:
    """Return why files of a run cannot be had any more, or None when all are there.

    Args:
        run_id: of the run; a version that was registered by hand may have none.
        names: of the files, each in a folder of the run's artifacts.
        uri: of MLflow; empty: `tracking_uri()`.

    Raises:
        TrackingError: MLflow does not answer, so that nobody knows.
    """
    if not run_id:
        return "it was registered without a run, which would have its files"
    with as_tracking_error(f"look for the files of run {run_id}", uri):
        client = store_client(uri)
        if _answer(lambda: client.get_run(run_id), "RESOURCE_DOES_NOT_EXIST") is None:
            return f"its run {run_id} is gone from MLflow"
        folders = sorted({name.rpartition("/")[0] for name in names})
        found = {item.path for folder in folders for item in client.list_artifacts(run_id, folder)}
    gone = [name for name in names if name not in found]
    return f"{', '.join(gone)} of its run {run_id} is gone from MLflow" if gone else None


def fetch(run_id: str, names: Sequence[str], folder: Path, uri: str | None = None) -> list[Path]:
    """Download files of a run into `folder`; return where they are.

    Raises:
        TrackingError: MLflow does not give them.
        StorageError: there is no room for them.
    """
    with as_tracking_error(f"read the files of run {run_id}", uri), storage_errors(folder):
        return [Path(store_client(uri).download_artifacts(run_id, name, str(folder))) for name in names]


@contextmanager
def as_tracking_error(what: str, uri: str | None) -> Iterator[None]:
    """Turn what MLflow refuses, or does not answer to, into a TrackingError: those are tried again."""
    try:
        yield
    except TRANSIENT as exc:
        where = public_uri(uri or tracking_uri())
        raise TrackingError(f"cannot {what} in MLflow at {where}: {first_line(exc)}") from exc


def _answer(ask: Callable[[], T], *refusals: str) -> T | None:
    """Return what MLflow answers; None where it refuses with one of these codes."""
    try:
        return ask()
    except MlflowException as exc:
        if exc.error_code in refusals:
            return None
        raise


def _version_of(client: MlflowClient, model_name: str, run_id: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{model_name}' and run_id = '{run_id}'")
    return min(versions, key=lambda found: int(found.version), default=None)
