"""Triangulates the points of a scene with known cameras, by COLMAP in its process."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from tasks.images.images import write_jpeg
from tasks.splatting.capture.pixels import JPEG_QUALITY, read_stored
from tasks.splatting.poses.colmap_job import ColmapJob
from tasks.splatting.poses.colmap_progress import Reporter, lines, watched
from tasks.splatting.poses.known_cameras import Known, KnownScene, points_of

_READ = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})  # by COLMAP itself

MIN_POINTS = 100
"""Fewer than this are no shape to start from."""

N_NEIGHBOURS = 12
"""Images each is matched with: the nearest that look the same way."""

_LARGEST_TURN = np.cos(np.radians(60))  # SIFT finds little again beyond


def triangulated(scene: KnownScene, job: ColmapJob, reporter: Reporter) -> KnownScene:
    """Return the scene with points and the features they are seen as; without any where too few could be found."""
    work = Path(job.folder) / "points.tmp"
    shutil.rmtree(work, ignore_errors=True)
    (work / "pictures").mkdir(parents=True)
    try:
        names = []
        for index, known in enumerate(scene.images):  # neither names nor places matter to COLMAP
            suffix = known.path.suffix.lower()
            names.append(f"{index:06}{suffix if suffix in _READ else '.jpg'}")
            if suffix in _READ:
                (work / "pictures" / names[index]).symlink_to(known.path.resolve())
            else:
                write_jpeg(work / "pictures" / names[index], read_stored(known.path), JPEG_QUALITY)
        _features(scene, names, job, reporter)
        _matches(scene, names, job, reporter)
        found = _triangulate(scene, names, job, reporter)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if len(found.points.positions) < MIN_POINTS:
        reporter.note(
            f"{len(found.points.positions)} points could be triangulated from the known cameras, too few for a start: "
            "the splat starts from random ones"
        )
        return scene
    return found


def _features(scene: KnownScene, names: list[str], job: ColmapJob, reporter: Reporter) -> None:
    options = pycolmap.FeatureExtractionOptions(max_image_size=job.max_side, num_threads=job.num_threads, use_gpu=False)
    options.sift.max_num_features = job.max_features
    groups: dict[int, list[int]] = {}
    for index, known in enumerate(scene.images):
        groups.setdefault(id(known.camera), []).append(index)
    with watched(lines(job, "] Processed file ["), "features", len(names), reporter):
        for group in groups.values():
            camera = scene.images[group[0]].camera
            pycolmap.extract_features(
                _database(job),
                Path(job.folder) / "points.tmp" / "pictures",
                image_names=[names[index] for index in group],
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=pycolmap.ImageReaderOptions(
                    camera_model=camera.model_name,
                    camera_params=",".join(f"{float(value)!r}" for value in camera.params),
                ),
                extraction_options=options,
                device=pycolmap.Device.cpu,
            )


def _database(job: ColmapJob) -> Path:
    return Path(job.folder) / "points.tmp" / "points.db"


def _matches(scene: KnownScene, names: list[str], job: ColmapJob, reporter: Reporter) -> None:
    pairs = neighbours(scene.images)
    listed = _database(job).with_name("pairs.txt")
    listed.write_text("".join(f"{names[first]} {names[second]}\n" for first, second in pairs))
    block = max(1, -(-len(pairs) // 50))
    n_blocks = -(-len(pairs) // block)
    begun = lines(job, "] Processing ")
    with watched(lambda: max(0, begun() - 1), "matches", n_blocks, reporter):
        pycolmap.match_image_pairs(
            _database(job),
            pycolmap.FeatureMatchingOptions(num_threads=job.num_threads, use_gpu=False),
            pycolmap.ImportedPairingOptions(match_list_path=listed, block_size=block),
            device=pycolmap.Device.cpu,
        )


def neighbours(images: tuple[Known, ...]) -> list[tuple[int, int]]:
    """Return the pairs of images that may show the same, each once: nearest places, directions that agree."""
    matrices = np.array([known.pose.matrix() for known in images])  # (V, 3, 4)
    forward = matrices[:, 2, :3]
    centers = -np.einsum("vji,vj->vi", matrices[:, :, :3], matrices[:, :, 3])
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)  # (V, V)
    alike = forward @ forward.T
    apart = np.where(alike < _LARGEST_TURN, np.inf, apart / (apart.max() or 1.0) + (1 - alike))
    np.fill_diagonal(apart, np.inf)
    pairs = set()
    for first, row in enumerate(apart):
        nearest = [int(second) for second in np.argsort(row, kind="stable")[:N_NEIGHBOURS] if np.isfinite(row[second])]
        pairs |= {(min(first, second), max(first, second)) for second in nearest}
    return sorted(pairs)


def _triangulate(scene: KnownScene, names: list[str], job: ColmapJob, reporter: Reporter) -> KnownScene:
    model, cameras = pycolmap.Reconstruction(), set[int]()
    numbers = _numbers(_database(job))  # COLMAP wants those of its database
    for known, name in zip(scene.images, names, strict=True):
        if name not in numbers:  # COLMAP could not read it: its log says so
            continue
        number, lens = numbers[name]
        if lens not in cameras:
            cameras.add(lens)
            camera = pycolmap.Camera(known.camera.todict())
            camera.camera_id = lens
            model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=name, keypoints=np.zeros((0, 2)), camera_id=lens, image_id=number)
        model.add_image_with_trivial_frame(image, known.pose)
    work = Path(job.folder) / "points.tmp"
    (work / "model").mkdir()
    options = pycolmap.IncrementalPipelineOptions(num_threads=job.num_threads, random_seed=job.seed)
    with watched(_nothing, "points", len(names), reporter):
        found = pycolmap.triangulate_points(model, _database(job), work / "pictures", work / "model", options=options)
    images = {found.image(number).name: found.image(number) for number in found.reg_image_ids()}
    place = {images[name].image_id: index for index, name in enumerate(names) if name in images}
    placed = tuple(
        replace(known, features=_keypoints(images[name])) if name in images else known
        for known, name in zip(scene.images, names, strict=True)
    )
    return replace(scene, images=placed, points=points_of(found, place))


def _numbers(database: Path) -> dict[str, tuple[int, int]]:
    """Return the numbers of each image and its camera by the image's name."""
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute("SELECT name, image_id, camera_id FROM images").fetchall()
    finally:
        connection.close()
    return {name: (image, camera) for name, image, camera in rows}


def _nothing() -> int:
    return 0


def _keypoints(image: Any) -> NDArray[np.float64]:
    return np.array([point.xy for point in image.points2D], np.float64).reshape(-1, 2)
