"""Finds camera poses with COLMAP, each stage once, and refuses poor results before a training."""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.base.errors import DatasetError
from tasks.base.outside import open_file
from tasks.base.progress import Note, Progress
from tasks.base.workspace import storage_errors, write_json
from tasks.images.images import read_rgb
from tasks.splatting.capture.photos import photographs
from tasks.splatting.capture.sharpness import look
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.colmap_job import FACTS, FEATURES, MATCHES, MODELS, UNDISTORTED, ColmapJob, run_colmap
from tasks.splatting.poses.pose_check import check_poses
from tasks.splatting.poses.pose_facts import Facts, ModelFacts, PoseReport, facts_from

PoseEvent = Progress | Note | PoseReport

ASKED = "asked.json"
"""What the stages in the folder are made from; the folder itself is whole with its last stage only."""

SEQUENTIAL_FROM = 80
"""More photographs than this are matched with their neighbours by name only."""


def find_poses(images: Path, folder: Path, params: PosesParams, is_video: bool) -> Iterator[PoseEvent]:
    """Yield how far COLMAP is and what to know, at last a PoseReport; its scene is what `read_scene` reads.

    A stage that an earlier call with the same images and parameters finished is not done again. Closing the generator
    ends COLMAP.

    Args:
        images: folder of the images, all taken by one camera; other sizes are taken as other cameras.
        folder: the stages' results are kept here.
        params: how to look for features, what to refuse.
        is_video: neighbours by name were taken one after the other.

    Raises:
        DatasetError: there are too few images, too few could be placed, or COLMAP failed.
        StorageError: the folder cannot be written.
    """
    names = [path.name for path in photographs(images)]
    if len(names) < params.min_registered:
        raise DatasetError(f"{len(names)} image(s) in {images}, need at least {params.min_registered} (min_registered)")
    job = _job(images, folder, names, params, is_video)
    _forget_others(folder, images, names, job)
    todo = _stages_left(folder)
    if todo:
        yield from run_colmap(replace(job, stages=todo))
    facts = facts_from(json.loads((folder / MODELS / FACTS).read_text()))
    _gate(facts, images, names, params)
    best = facts.models[0]
    if len(facts.models) > 1:
        sizes = ", ".join(str(len(model.names)) for model in facts.models)
        yield Note(f"the images fall into {len(facts.models)} models, of {sizes} images; the largest is used")
    if not (folder / UNDISTORTED).is_dir():
        model = str(folder / MODELS / str(best.number))
        yield from run_colmap(replace(job, stages=("undistort",), model=model, places=(job.images,)))
    yield _report(folder, best, names, len(facts.models))


def adopt_poses(job: ColmapJob, params: PosesParams, max_side: int) -> Iterator[PoseEvent]:
    """Yield how far it is, at last a PoseReport: cameras that are there already are taken over.

    Images without distortion are linked, the others made straight; points that lack are triangulated.

    Args:
        job: with a model and the places its images may lie at, or with known cameras; and where the result is kept.
        params: how to look for features, and how many images have to be there.
        max_side: images are shrunk to this, pixels.

    Raises:
        DatasetError: the model is damaged, or too many images of it are missing, or lie elsewhere.
    """
    folder = Path(job.folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    yield from run_colmap(
        replace(
            job,
            stages=("adopt",),
            max_side=params.max_side,
            max_features=params.max_features,
            seed=params.seed,
            num_threads=params.num_threads or -1,
            min_registered=params.min_registered,
            min_registered_share=params.min_registered_share,
            undistorted_max_side=max_side,
        )
    )
    facts = json.loads((folder / UNDISTORTED / FACTS).read_text())
    names, unplaced = facts.pop("names"), tuple(facts.pop("unplaced"))
    total = len(names) + len(unplaced)
    yield PoseReport(folder / UNDISTORTED, len(names), total, missing=unplaced, n_models=1, **facts)


def _report(folder: Path, model: ModelFacts, names: Sequence[str], n_models: int) -> PoseReport:
    return PoseReport(
        scene=folder / UNDISTORTED,
        registered=len(model.names),
        total=len(names),
        reprojection_error_px=model.reprojection_error_px,
        track_length=model.track_length,
        points=model.points,
        missing=tuple(sorted(set(names) - set(model.names))),
        n_models=n_models,
    )


def _job(images: Path, folder: Path, names: Sequence[str], params: PosesParams, is_video: bool) -> ColmapJob:
    exhaustive = params.matching == "exhaustive"
    if params.matching == "auto":
        exhaustive = not is_video and len(names) <= SEQUENTIAL_FROM
    return ColmapJob(
        stages=(),
        images=str(images.resolve()),
        folder=str(folder.resolve()),
        groups=_groups(images, names),
        camera_model=params.camera_model,
        exhaustive=exhaustive,
        max_side=params.max_side,
        max_features=params.max_features,
        seed=params.seed,
        num_threads=params.num_threads or -1,
    )


def _groups(images: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the names by size: one camera cannot have taken images of two, at least not turned the same way."""
    by_size: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name in names:
        with open_file(images / name, DatasetError) as file, Image.open(file) as image:
            by_size[image.size].append(name)
    return tuple(tuple(group) for _, group in sorted(by_size.items()))


def _forget_others(folder: Path, images: Path, names: Sequence[str], job: ColmapJob) -> None:
    """Remove what was made from other images or with other parameters."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sizes = [[name, (images / name).stat().st_size] for name in names]
    settings = ("groups", "camera_model", "exhaustive", "max_side", "max_features", "seed")
    made_with: dict[str, Any] = json.loads(
        json.dumps({"pictures": sizes, **{name: getattr(job, name) for name in settings}})
    )
    asked = folder / ASKED
    if asked.is_file() and json.loads(asked.read_text()) == made_with:
        return
    for stage in (UNDISTORTED, MODELS):
        _remove(folder / stage)
    for database in (MATCHES, FEATURES):
        (folder / database).unlink(missing_ok=True)
    write_json(asked, made_with)


def _remove(folder: Path) -> None:
    """Remove a folder so that it is never seen half there."""
    if folder.is_dir():
        gone = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)


def _stages_left(folder: Path) -> tuple[str, ...]:
    if (folder / MODELS / FACTS).is_file():
        return ()
    if (folder / MATCHES).is_file():
        return ("poses",)
    return ("matches", "poses") if (folder / FEATURES).is_file() else ("features", "matches", "poses")


def _gate(facts: Facts, images: Path, names: Sequence[str], params: PosesParams) -> None:
    check_poses(facts, names, lambda: {name: look(read_rgb(images / name)).sharpness for name in names}, params)
