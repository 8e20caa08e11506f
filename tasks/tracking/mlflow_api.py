"""Finds MLflow's server, and writes lines of a journal into a run there."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from tasks.base.errors import TrackingError, TransferError
from tasks.base.file_locks import file_lock
from tasks.base.servers.database import mlflow_uri
from tasks.base.servers.mlflow_account import let_in
from tasks.base.workspace import home
from tasks.tracking.journal import Card, Journal
from tasks.tracking.traces import send_trace

logger = logging.getLogger(__name__)

TRANSIENT = (MlflowException, OSError, SQLAlchemyError)
"""What a store raises that cannot be reached; requests' errors are OSErrors."""

_FILE = "sqlite:///"
_opened: set[str] = set()
_TOKEN_TAG = "trainyard.token"
_HOPELESS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}
_MAX_PER_CALL = 100  # parameters or tags in one call; a larger one is refused by MLflow

_CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow's own defaults wait 246 s on a refused connection; here a thread retries for as long as it takes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in _CLIENT_SETTINGS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each attempt
set_telemetry_client()  # reads the switch again: mlflow itself was imported before it was set


KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
"""The tag by which MLflow's pages know what an experiment is of: its runs are shown first, not traces of a chat."""

UI = "http://127.0.0.1:5000"
"""Where `yard up` shows MLflow unless told otherwise; runs that know no server link there."""


def tracking_uri() -> str:
    """Return where MLflow is: MLFLOW_TRACKING_URI, else the database of TRAINYARD_HOME, made if missing."""
    return os.environ.get("MLFLOW_TRACKING_URI") or mlflow_uri()


def client(uri: str | None = None) -> MlflowClient:
    """Return a client of the tracking store and the registry at `uri` (empty: `tracking_uri()`)."""
    uri = uri or tracking_uri()
    if uri.startswith(_FILE) and uri not in _opened:
        _make_tables(uri)
    if uri.startswith("http"):
        let_in(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_tables(uri: str) -> None:
    """Open a database file for the first time, one process after the other.

    Whoever opens it makes its tables: two at once end with half of them each, and an error.
    """
    with file_lock(Path(f"{uri.removeprefix(_FILE)}.lock"), uri, wait=True):
        first = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            first.search_experiments(max_results=1)
            first.search_registered_models(max_results=1)
        except TRANSIENT as exc:  # raised again by the first real question, where it has its sentence
            logger.debug("cannot open %s yet: %s", uri, exc)
            return
    _opened.add(uri)


def public_uri(uri: str) -> str:
    """Return `uri` without user and password."""
    return re.sub(r"//[^/?#\s]*@", "//", uri)


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the page of the run in MLflow's UI; without a server, where `yard up` will show it."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    if uri.startswith(("http://", "https://")):
        return f"{public_uri(uri).rstrip('/')}/{page}"
    return f"{UI}/{page}"


def is_hopeless(error: BaseException) -> bool:
    """Whether MLflow answered that it will never take this, so that waiting longer is no use."""
    return isinstance(error, MlflowException) and error.error_code in _HOPELESS


def is_away(fault: TrackingError) -> bool:
    """Whether it is MLflow that did not answer, or could not, so that the same may succeed later."""
    return isinstance(fault.__cause__, (*TRANSIENT, TransferError)) and not is_hopeless(fault.__cause__)


def ensure_run(store: MlflowClient, uri: str, card: Card) -> Card:
    """Return the card with the ids of its MLflow run, which is made unless an earlier attempt made it."""
    if card.run_id:
        if store.get_run(card.run_id).info.lifecycle_stage != "active":
            raise TrackingError(f"run {card.run_id} was deleted in MLflow at {public_uri(uri)}: restore it there")
        return card
    experiment_id = _experiment_id(store, uri, card.experiment)
    twins = _runs_with_token(store, experiment_id, card.token)
    run_id = twins[0] if twins else _create_run(store, experiment_id, card)
    return replace(card, run_id=run_id, experiment_id=experiment_id, store=public_uri(uri))


def _create_run(store: MlflowClient, experiment_id: str, card: Card) -> str:
    tags = {_TOKEN_TAG: card.token}
    return str(store.create_run(experiment_id, card.started_ms, tags, card.run_name).info.run_id)


def _runs_with_token(store: MlflowClient, experiment_id: str, token: str) -> list[str]:
    runs = store.search_runs([experiment_id], f"tags.`{_TOKEN_TAG}` = '{token}'", run_view_type=ViewType.ACTIVE_ONLY)
    return sorted(str(run.info.run_id) for run in runs)


def _experiment_id(store: MlflowClient, uri: str, name: str) -> str:
    experiment = store.get_experiment_by_name(name)
    if experiment is None:
        location = None  # a server knows its own place for files
        if not uri.startswith("http"):
            # The digest keeps apart names that differ only in letters a file name cannot hold.
            slug = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
            location = (home() / "mlflow" / "artifacts" / slug).as_uri()
        try:
            return str(store.create_experiment(name, artifact_location=location, tags={KIND: TRAINING}))
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = store.get_experiment_by_name(name)  # another run was faster
    if experiment is None or experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {name!r} was deleted in MLflow at {public_uri(uri)}: restore it or take another name"
        )
    if experiment.artifact_location.startswith("mlflow-artifacts:") and not uri.startswith("http"):
        raise TrackingError(
            f"experiment {name!r} keeps its files with a server, found MLflow at {public_uri(uri)}: set "
            "MLFLOW_TRACKING_URI to that server's address, or take another name"
        )
    if KIND not in experiment.tags:  # of an earlier version, or made by hand
        store.set_experiment_tag(experiment.experiment_id, KIND, TRAINING)
    return str(experiment.experiment_id)


def send_metrics(store: MlflowClient, run_id: str, rows: Sequence[tuple[str, float, int, int]]) -> None:
    """Send (key, value, time in ms, step) rows; one that has arrived before adds nothing."""
    store.log_batch(run_id, metrics=[Metric(*row) for row in rows], synchronous=True)


def sent_metrics(store: MlflowClient, run_id: str) -> dict[str, dict[int, float]]:
    """Return what MLflow has of a run: the value of each step, by key."""
    keys = store.get_run(run_id).data.metrics
    return {key: {row.step: row.value for row in store.get_metric_history(run_id, key)} for key in keys}


def send(store: MlflowClient, card: Card, journal: Journal, entry: Mapping[str, Any]) -> None:
    """Send one entry that is not of metrics; sent twice it has the same effect as once."""
    assert card.run_id is not None
    run_id = card.run_id
    match entry["op"]:
        case "begin":
            store.update_run(run_id, status="RUNNING")
        case "params":
            items = [Param(key, value) for key, value in entry["values"].items()]
            for start in range(0, len(items), _MAX_PER_CALL):
                store.log_batch(run_id, params=items[start : start + _MAX_PER_CALL], synchronous=True)
        case "tags":
            _send_tags(store, run_id, entry["values"])
        case "files":
            store.log_artifacts(run_id, str(journal.outbox / entry["place"]), entry["folder"] or None)
        case "image":
            _send_image(store, run_id, journal.outbox / entry["place"])
        case "trace":
            send_trace(store, card, journal.outbox / entry["place"])
        case "input":
            dataset = Dataset(entry["name"], entry["digest"], "local", entry["source"], profile=entry["profile"])
            context = InputTag("mlflow.data.context", entry["context"])
            store.log_inputs(run_id, [DatasetInput(dataset, [context])])
        case "end":
            _remove_twins(store, card)
            store.set_terminated(run_id, entry["status"], entry["time"])
        case other:
            raise TrackingError(f"{journal.path} holds the unknown operation {other!r}: written by a newer version?")


def discard(journal: Journal, entry: Mapping[str, Any]) -> None:
    """Remove the kept files of an entry that has arrived."""
    if "place" in entry:
        shutil.rmtree(journal.outbox / entry["place"], ignore_errors=True)


def _send_tags(store: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    tags = [RunTag(key, value) for key, value in values.items()]
    for start in range(0, len(tags), _MAX_PER_CALL):
        store.log_batch(run_id, tags=tags[start : start + _MAX_PER_CALL], synchronous=True)


def _send_image(store: MlflowClient, run_id: str, place: Path) -> None:
    """Send an image of a series as MLflow's image grid reads it: itself, and a small copy beside it."""
    (large,) = place.glob("*.png")
    small = large.with_name(f"{large.stem}+compressed.webp")
    with Image.open(large) as image:
        image.thumbnail((256, 256))
        image.save(small)
    store.log_artifacts(run_id, str(place), "images")
    store.set_tag(run_id, "mlflow.loggedImages", "True")


def _remove_twins(store: MlflowClient, card: Card) -> None:
    """Delete runs made by a request that was answered too late and so was sent twice."""
    assert card.experiment_id is not None
    for run_id in _runs_with_token(store, card.experiment_id, card.token):
        if run_id != card.run_id:
            store.delete_run(run_id)
