"""Ends the MLflow runs of the dead, and removes for good what was deleted in MLflow."""

import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.cli import _gc_tracking_resources
from mlflow.entities import ViewType
from mlflow.tracking._tracking_service.utils import _get_store

from gpu_pools.placement.queues import parse_duration
from gpu_pools.process import run_setup
from tasks.base.errors import StorageError
from tasks.base.outside import read_json
from tasks.base.servers.database import mlflow_uri
from tasks.base.workspace import home
from tasks.housekeeping.house import House
from tasks.housekeeping.receipt import Entry, Receipt, age_text
from tasks.housekeeping.records import Record
from tasks.housekeeping.removal import disk_usage
from tasks.tracking import mlflow_api
from tasks.tracking.dead_run_cleanup import close
from tasks.tracking.journal import read_card
from tasks.tracking.mlflow_names import FLOW_RUN
from tasks.tracking.uploader import Status

_STATUS: Mapping[str, Status] = {"COMPLETED": "FINISHED", "CANCELLED": "KILLED"}  # of Prefect; all else has failed


def end_dead_runs(house: House, receipt: Receipt) -> None:
    """End the MLflow runs that are RUNNING though their Prefect run ended a while ago, or its process died here.

    One with a folder here is sent what waits in its journal first; one without gets its status alone. `yard resume`
    opens it again.
    """
    limit_s = parse_duration(house.keep.dead_runs)
    store, cards = mlflow_api.client(), _cards(house)
    for run in _running(store, before_ms=int(1000 * (house.now - limit_s))):
        flow_run = str(run.data.tags.get(FLOW_RUN, ""))
        found = house.records.by_id([flow_run]) if flow_run else {}
        record = found.get(flow_run)
        if record is None or not _is_over(house, run, record, cards):
            continue
        status = _STATUS.get(record.state, "FAILED")
        if house.remover.dry_run or _end(store, str(run.info.run_id), flow_run, cards, status, receipt):
            what = f"is {record.state}" if record.over else "has no process"
            why = f"RUNNING, its Prefect run {what} for more than {age_text(limit_s)}"
            receipt.entries.append(Entry("dead_runs", f"{run.info.run_name} ({run.info.run_id})", why))


def remove_deleted(house: House, receipt: Receipt) -> None:
    """Remove for good what was deleted in MLflow long ago, as `mlflow gc` does; not what a registered model needs.

    `mlflow gc` itself takes all that was deleted, whoever needs it: its parts are called with what may go.
    """
    if house.keep.deleted_runs is None:
        return
    uri = own_store()
    if uri is None:
        where = mlflow_api.public_uri(mlflow_api.tracking_uri())
        receipt.notes.append(f"deleted_runs: MLflow at {where} is no store of this home: `mlflow gc` where it is")
        return
    limit_s = parse_duration(house.keep.deleted_runs)
    store: Any = _get_store(uri, str(home() / "mlflow" / "artifacts"))
    needed = {**_registered(mlflow_api.client()), **_pinned(house)}
    runs = [run for run in store._get_deleted_runs(older_than=int(1000 * limit_s)) if _may_go(run, needed, receipt)]
    models = [
        model
        for model in store._get_deleted_logged_models(older_than=int(1000 * limit_s))
        if _may_go(model, needed, receipt)
    ]
    places = {run: store.get_run(run).info.artifact_uri for run in runs}
    places |= {model: store.get_logged_model(model, allow_deleted=True).artifact_location for model in models}
    sizes = {name: _size(place) for name, place in places.items()}
    if not house.remover.dry_run:
        _remove_rows(store, runs, models, limit_s)
    why = f"deleted in MLflow more than {age_text(limit_s)} ago"
    for name, size in sizes.items():
        left = 0 if house.remover.dry_run else _size(places[name])
        receipt.entries.append(Entry("deleted_runs", name, why, size - left))


def own_store() -> str | None:
    """Return the database of MLflow, where this process may change it: that of the home, or a file that is named."""
    uri = mlflow_api.tracking_uri().rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return uri
    path = home() / "services.json"
    record = read_json(path, StorageError) if path.is_file() else {}
    ours = "" if "lab" in record else record.get("mlflow", "")  # a lab's database is not that of a home
    return mlflow_uri() if uri.replace("//localhost:", "//127.0.0.1:") == ours else None


def _running(store: MlflowClient, before_ms: int) -> Iterator[Any]:
    experiments = [found.experiment_id for found in store.search_experiments()]
    wanted = f"attributes.status = 'RUNNING' and attributes.start_time < {before_ms}"
    token = None
    while experiments:
        page = store.search_runs(experiments, wanted, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_over(house: House, run: Any, record: Record, cards: Mapping[str, Path]) -> bool:
    """Return whether a run ended a while ago: Prefect says so, or it died in a terminal of this host."""
    if record.over and record.ended is not None:
        return house.now - record.ended > parse_duration(house.keep.dead_runs)
    return _died_here(house, run, record, cards)


def _died_here(house: House, run: Any, record: Record, cards: Mapping[str, Path]) -> bool:
    """Return whether a run of `yard run` was killed on this host: nobody could tell Prefect, and no worker looks."""
    folder = cards.get(str(run.info.run_id))
    if folder is None or not record.local or run.data.tags.get("host") != socket.gethostname():
        return False
    journals = [path.stat().st_mtime for path in folder.glob("*/journal.jsonl")]
    quiet = bool(journals) and house.now - max(journals) > parse_duration(house.keep.dead_runs)
    return quiet and (folder / "lock").exists() and run_setup.run_is_dead(folder.name)


def _cards(house: House) -> dict[str, Path]:
    """Return MLflow run -> folder of the run that writes it."""
    found = {}
    for folder in house.folders.values():
        for path in folder.glob("*/run.json"):
            card = None if path.parent.is_symlink() else read_card(path.parent)
            if card is not None and card.run_id:
                found[card.run_id] = folder
    return found


def _end(
    store: MlflowClient, run_id: str, flow_run: str, cards: Mapping[str, Path], status: Status, receipt: Receipt
) -> bool:
    """End an MLflow run; return whether it is at its end now."""
    folder = cards.get(run_id)
    if folder is None:
        store.set_terminated(run_id, status)
        return True
    stage = home() / "runs" / flow_run / "lock"
    if not run_setup.run_is_dead(folder.name) or (stage.exists() and not run_setup.run_is_dead(flow_run)):
        return False
    faults = close(folder, status)
    receipt.notes += [f"dead_runs: {fault}" for fault in faults]
    if not faults and store.get_run(run_id).info.status == "RUNNING":  # its journal says that it has ended, long ago
        store.set_terminated(run_id, status)
    return not faults


def _registered(store: MlflowClient) -> dict[str, str]:
    """Return what registered models need, runs and logged models -> which model."""
    found = {}
    for version in store.search_model_versions():
        what = f"version {version.version} of model {version.name!r} needs it"
        for name in (version.run_id, getattr(version, "model_id", None), *_named(version.source or "")):
            if name:
                found[str(name)] = what
    return found


def _named(source: str) -> Iterator[str]:
    """Yield the runs and logged models that the source of a version may mean: models:/m-1, runs:/R/model, a folder."""
    yield from urlsplit(source).path.split("/")


def _pinned(house: House) -> dict[str, str]:
    """Return the MLflow runs of pinned runs -> why they stay."""
    protected = {record.id: record.name for record in house.records.pinned()}
    cards = _cards(house)
    return {run: f"{protected[folder.name]} is pinned" for run, folder in cards.items() if folder.name in protected}


def _may_go(name: str, needed: Mapping[str, str], receipt: Receipt) -> bool:
    if name in needed:
        receipt.kept.append(Entry("deleted_runs", name, needed[name]))
    return name not in needed


def _remove_rows(store: Any, runs: list[str], models: list[str], limit_s: float) -> None:
    """Remove runs and models with their files, then the deleted experiments that have become empty by that."""
    common: dict[str, Any] = {"backend_store": store, "older_than": None, "time_delta": 0}
    _gc_tracking_resources(
        **common,
        run_ids=runs,
        experiment_ids=None,
        logged_model_ids=models,
        skip_experiments=True,
        skip_logged_models=False,
    )
    before = int(1000 * (time.time() - limit_s))
    old = store.search_experiments(view_type=ViewType.DELETED_ONLY, filter_string=f"last_update_time < {before}")
    empty = [found.experiment_id for found in old if not store.search_runs([found.experiment_id], "", ViewType.ALL)]
    if empty:
        _gc_tracking_resources(
            **common,
            run_ids=[],
            experiment_ids=empty,
            logged_model_ids=[],
            skip_experiments=False,
            skip_logged_models=True,
        )


def _size(place: str) -> int:
    """Return the bytes that files take in a folder of this host; 0 for another store, whose size is not known here."""
    parts = urlsplit(place)
    return disk_usage(Path(unquote(parts.path))) if parts.scheme in ("", "file") else 0
