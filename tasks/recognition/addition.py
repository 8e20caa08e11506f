"""Adds parts that are given as meshes to an index that MLflow has, as a version of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.base.errors import TrackingError, WeightsError
from tasks.base.outside import read_json
from tasks.base.workspace import allowed_path, staged, write_json
from tasks.images.images import read_bytes
from tasks.recognition.index.add_parts import Addition, adding
from tasks.recognition.index.building import INDEX
from tasks.recognition.index.grading.promotion import INDEX_FILES, SEEN
from tasks.recognition.index.index_folder import CONFIG, read_index_config
from tasks.recognition.index.serving import log_index
from tasks.recognition.index.views import file_digests, read_new_views
from tasks.recognition.params import AddParams, RenderParams
from tasks.recognition.render.rendering import render_views
from tasks.run.display import Bars
from tasks.tracking import registry
from tasks.tracking.addresses import FoundModel, find_model, is_address
from tasks.tracking.tracker import Tracker

_ADVICE = "make one (`yard run recognition`)"
VIEWS = "views"


@dataclass(frozen=True, slots=True)
class IndexSource:
    """An index that parts are added to."""

    folder: Path  # config.json, weights.pt, index.faiss, views.csv
    seen: list[str]  # digests of the views it was made of
    model: FoundModel | None  # None: a folder


def fetch_index(address: str, folder: Path) -> IndexSource:
    """Return an index by its address in MLflow, or in a folder.

    Args:
        address: models:/NAME@ALIAS, models:/NAME/NUMBER, runs:/ID or a folder.
        folder: an existing one of the run's own, for what comes from MLflow.

    Raises:
        WeightsError: there is none.
        ConfigError: the address means nothing, or leads outside the allowed roots.
        TrackingError: MLflow does not answer.
    """
    if not is_address(address):
        return IndexSource(allowed_path(Path(address)), [], None)
    found = find_model(address, "index", _ADVICE)
    if lost := registry.why_lost(found.run_id, (*INDEX_FILES, SEEN)):
        raise WeightsError(f"the index {found.name} cannot be had: {lost}")
    assert found.run_id is not None, "a version without a run has lost its files"
    *files, seen = registry.fetch(found.run_id, (*INDEX_FILES, SEEN), folder)
    return IndexSource(files[0].parent, list(read_json(seen, TrackingError)), found)


def add_meshes(
    meshes: Path, source: IndexSource, folder: Path, params: AddParams, device: torch.device, bars: Bars
) -> Addition:
    """Render new parts and fill `folder` with an index that knows them.

    Raises:
        DatasetError: meshes cannot be used; all are told.
        ConfigError: the index has a part of that name.
        WeightsError: the index is damaged.
    """
    size = int(read_index_config(source.folder / CONFIG)["image_size"])
    render = RenderParams(view_size=max(RenderParams().view_size, size), seed=params.seed, n_workers=params.n_workers)
    views = folder / VIEWS
    with staged(views) as fresh:
        bars.watch("render", render_views(meshes, fresh, params.n_views, render))
    with staged(folder / INDEX) as fresh:
        addition = bars.watch("embed", adding(source.folder, views, fresh, device, replace=params.replace))
    _, new = read_new_views(views)
    write_json(folder / Path(SEEN).name, sorted({*source.seen, *file_digests(new, lambda: None)}))
    return addition


def register_addition(
    source: IndexSource, folder: Path, tracker: Tracker, params: AddParams, model_name: str, say: Callable[[str], None]
) -> None:
    """Give MLflow the larger index, register it, and put it in the place of the champion that it was made of.

    Args:
        source: what it was made of.
        folder: filled by `add_meshes`.
        tracker: of the run.
        params: whether it is promoted.
        model_name: of the registered model, where the source is none.
        say: told what became of the champion.

    Raises:
        TrackingError: MLflow does not take it.
    """
    tracker.artifact(folder / INDEX, INDEX)
    tracker.artifact(folder / Path(SEEN).name, "dataset")
    tracker.flush()  # whoever reads the index by the version reads it from the run
    example = read_bytes(next(iter(sorted((folder / VIEWS).rglob("*.jpg")))))
    uri = log_index(tracker.run_id, folder / INDEX, example)
    base = source.model if source.model is not None and source.model.version is not None else None
    name = base.name if base else model_name
    tags = {"made_of": f"{base.name} {base.version}" if base else str(source.folder)}
    version = registry.register(name, tracker.run_id, uri, tags=tags)
    tracker.tag("model_version", f"{name} {version}")
    now = registry.champion(name)
    of_champion = base is not None and now is not None and int(now.version) == base.version
    if params.promote and (now is None or of_champion):
        registry.annotate(name, version, description=f"promoted: version {base.version if base else 'none'} and more")
        registry.promote(name, version, instead_of=None if now is None else int(now.version))
        say(f"version {version} of {name} is champion: it is the one before, with the parts added")
    else:
        say(f"version {version} of {name} is registered; the champion stays")
