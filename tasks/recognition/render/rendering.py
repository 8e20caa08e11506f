"""Renders a folder of meshes into a data set; the seed decides every byte, the number of threads none."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base.errors import DatasetError
from tasks.base.progress import Steps
from tasks.base.workspace import open_table, storage_errors, write_json
from tasks.geometry.rotations import quaternion_of
from tasks.images.files import in_threads
from tasks.recognition.meshes.distractors import find_distractors
from tasks.recognition.meshes.parts import Part, read_parts
from tasks.recognition.params import RenderParams
from tasks.recognition.render.scenes import Cast, Scene, render_scene
from tasks.recognition.render.solids import Solid, make_solids
from tasks.recognition.render.studio import Studio, make_studio
from tasks.recognition.render.views import ViewPose, render_view, view_poses

_SUBSETS = ("train", "val", "test")
_VIEW, _POSE, _SCENE = 1, 2, 3  # streams of random numbers


@dataclass(frozen=True, slots=True)
class RenderReport:
    """What was rendered; its parts and distractors are those of parts.json."""

    parts: list[dict[str, Any]]
    distractors: list[dict[str, Any]]
    n_views: dict[str, int]  # subset, and "distractors"
    n_scenes: dict[str, int]
    n_annotations: int
    notes: list[str]  # what was strange about the meshes, a sentence each


@dataclass(frozen=True, slots=True)
class _View:
    """An image to be rendered."""

    path: str  # below the data set
    solid: Solid
    pose: ViewPose
    key: tuple[int, ...]  # of its random numbers


def rendering(meshes: Path, target: Path, params: RenderParams) -> Steps[RenderReport]:
    """Fill `target` with parts.json, views and scenes; yield per image.

    Args:
        meshes: a folder of STL, OBJ, PLY, GLB and 3MF files, a part each.
        target: an existing empty folder.

    Raises:
        DatasetError: there are no meshes, some cannot be used (all are told), or a part and a distractor share a name.
        Interrupted: a signal has come.
    """
    parts = read_parts(meshes)
    distractors = find_distractors(params.distractors, params.n_distractors, params.seed)
    if shared := {part.name for part in parts} & {part.name for part in distractors}:
        raise DatasetError(f"found {sorted(shared)[0]!r} among the parts and among the distractors: rename one")
    solids, clutter = make_solids(parts), make_solids(distractors)
    studio = make_studio(params.seed, params.backgrounds)
    views = [*_views_of_parts(solids, params), *_views_of_distractors(clutter, params)]
    counts = dict(zip(_SUBSETS, (params.train_scenes, params.val_scenes, params.test_scenes), strict=True))
    total = len(views) + sum(counts.values())
    done = n_annotations = 0
    with storage_errors(target):
        for _ in _write_views(views, target, studio, params):
            done += 1
            yield done, total
        cast = Cast.of(solids, clutter)
        for subset, n in counts.items():
            entries: list[Scene] = []
            for scene in _write_scenes(
                cast, target / "scenes" / subset, (_SCENE, _SUBSETS.index(subset)), n, studio, params
            ):
                entries.append(scene)
                done += 1
                yield done, total
            _write_coco(target / "scenes" / subset / "annotations.json", entries, parts, params.scene_size)
            n_annotations += sum(len(scene.annotations) for scene in entries)
        report = _report(parts, distractors, params, counts, n_annotations)
        _write_parts(target / "parts.json", report, params)
    return report


def render_views(
    meshes: Path, target: Path, n: int, params: RenderParams, first: int = 0
) -> Steps[list[dict[str, Any]]]:
    """Fill `target` with n views of each new part, as <part>/<number>.jpg, and poses.csv; yield per image.

    Args:
        meshes: a folder of meshes, or one file.
        target: an existing empty folder.
        first: number of parts that are known already; the new ones are rendered as those after them.

    Returns:
        The rows that parts.json would have.

    Raises:
        DatasetError: as `rendering`.
    """
    parts = read_parts(meshes)
    views = []
    for number, solid in enumerate(make_solids(parts), first):
        views += _views_of(solid, solid.name, n, (0, number), params)
    studio = make_studio(params.seed, params.backgrounds)
    with storage_errors(target):
        for done, _ in enumerate(_write_views(views, target, studio, params, target), 1):
            yield done, len(views)
    return [part.row() for part in parts]


def _views_of_parts(solids: Sequence[Solid], params: RenderParams) -> list[_View]:
    counts = (params.train_views, params.val_views, params.test_views)
    return [
        view
        for subset, (name, n) in enumerate(zip(_SUBSETS, counts, strict=True))
        for number, solid in enumerate(solids)
        for view in _views_of(solid, f"views/{name}/{solid.name}", n, (subset, number), params)
    ]


def _views_of_distractors(solids: Sequence[Solid], params: RenderParams) -> list[_View]:
    return [
        view
        for number, solid in enumerate(solids)
        for view in _views_of(solid, f"views/distractors/{solid.name}", params.distractor_views, (3, number), params)
    ]


def _views_of(solid: Solid, folder: str, n: int, key: tuple[int, int], params: RenderParams) -> list[_View]:
    poses = view_poses(n, np.random.default_rng([params.seed, _POSE, *key]))
    return [_View(f"{folder}/{i:05}.jpg", solid, pose, (_VIEW, *key, i)) for i, pose in enumerate(poses)]


def _write_views(
    views: Sequence[_View], target: Path, studio: Studio, params: RenderParams, table_in: Path | None = None
) -> Iterator[None]:
    """Write images and poses.csv; yield per image, in order."""

    def work(view: _View) -> None:
        rng = np.random.default_rng([params.seed, *view.key])
        (target / view.path).write_bytes(render_view(view.solid, view.pose, studio, params, rng))

    for folder in {(target / view.path).parent for view in views}:
        folder.mkdir(parents=True, exist_ok=True)
    table_in = table_in or target / "views"
    table_in.mkdir(parents=True, exist_ok=True)
    with open_table(table_in / "poses.csv") as file:
        table = csv.writer(file)
        table.writerow(["path", "part", "w", "x", "y", "z", "distance", "azimuth", "elevation"])
        for view, _ in zip(views, in_threads(work, views, params.n_workers), strict=True):
            pose = view.pose
            numbers = (*quaternion_of(pose.turn), pose.distance, pose.azimuth, pose.elevation)
            table.writerow([view.path, view.solid.name, *(f"{value:.6g}" for value in numbers)])
            yield


def _write_scenes(
    cast: Cast, folder: Path, key: tuple[int, int], n: int, studio: Studio, params: RenderParams
) -> Iterator[Scene]:
    """Write images; yield each scene, in order."""

    def work(number: int) -> Scene:
        scene = render_scene(cast, studio, params, np.random.default_rng([params.seed, *key, number]))
        (folder / "images" / f"{number:05}.jpg").write_bytes(scene.jpeg)
        return scene

    (folder / "images").mkdir(parents=True, exist_ok=True)
    yield from in_threads(work, range(n), params.n_workers)


def _write_coco(path: Path, scenes: Sequence[Scene], parts: Sequence[Part], size: int) -> None:
    """Write COCO JSON; each image has its camera: focal length, and column and row of the axis, pixels."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        camera = [round(scene.focal, 4), size / 2, size / 2]
        images.append(
            {"id": number + 1, "file_name": f"{number:05}.jpg", "width": size, "height": size, "camera": camera}
        )
        for annotation in scene.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, **annotation})
    categories = [{"id": number + 1, "name": part.name} for number, part in enumerate(parts)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    path.write_text(text, encoding="utf-8")


def _report(
    parts: Sequence[Part],
    distractors: Sequence[Part],
    params: RenderParams,
    n_scenes: dict[str, int],
    n_annotations: int,
) -> RenderReport:
    # Three of four teach what unknown means; the rest tells how many unknown shapes are refused.
    n = len(distractors)
    uses = ["fit" if number < max(1, n - max(1, n // 4)) else "calibrate" for number in range(n)]
    rows = [part.row() | {"use": use} for part, use in zip(distractors, uses, strict=True)]
    n_views = dict(zip(_SUBSETS, (params.train_views, params.val_views, params.test_views), strict=True))
    n_views = {name: n * len(parts) for name, n in n_views.items()}
    n_views["distractors"] = params.distractor_views * len(distractors)
    notes = [f"{part.file} {note}" for part in (*parts, *distractors) for note in part.notes]
    return RenderReport([part.row() for part in parts], rows, n_views, n_scenes, n_annotations, notes)


def _write_parts(path: Path, report: RenderReport, params: RenderParams) -> None:
    write_json(
        path,
        {
            "parts": report.parts,
            "distractors": report.distractors,
            "view_size": params.view_size,
            "scene_size": params.scene_size,
            "seed": params.seed,
            "n_views": report.n_views,
            "n_scenes": report.n_scenes,
            "n_annotations": report.n_annotations,
        },
    )
