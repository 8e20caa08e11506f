"""Images with known cameras, in COLMAP's process, before their lens distortion is removed."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.images.files import find_images
from tasks.splatting.capture.named_images import check_there, find_named, left_out, parts_of
from tasks.splatting.capture.pixels import stored_size
from tasks.splatting.capture.point_cloud import read_points
from tasks.splatting.poses.colmap_job import ColmapJob

_ASPECT = 0.02  # two ratios of sides that differ by less are the same image, rounded


@dataclass(frozen=True, slots=True)
class Known:
    """One image, the camera that took it, and what was found in it."""

    name: str  # in the scene
    path: Path
    mask: Path | None
    camera: Any  # pycolmap.Camera, of the file's pixels
    pose: Any  # pycolmap.Rigid3d, camera from world
    features: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))  # (K, 2) the file's pixels


@dataclass(frozen=True, slots=True)
class Points:
    """Points of a reconstruction."""

    positions: NDArray[np.float64]  # (P, 3) world units
    colors: NDArray[np.uint8]  # (P, 3) RGB
    tracks: Sequence[Sequence[tuple[int, int]]]  # of each: image and feature it was seen as; may be empty
    reprojection_error_px: float | None = None  # mean
    track_length: float | None = None  # mean


@dataclass(frozen=True, slots=True)
class KnownScene:
    """What is known of a scene before its images are made straight."""

    images: tuple[Known, ...]
    points: Points
    unplaced: tuple[str, ...] = ()  # names of images beside them that no camera is known of


def from_model(job: ColmapJob, note: Callable[[str], None]) -> KnownScene:
    """Return what a COLMAP model knows; images of it that are not there are left out.

    Raises:
        DatasetError: it cannot be read, a name leads elsewhere, or too few images are there.
    """
    model = read_model(Path(job.model), Path(job.folder) / "model.tmp")
    numbers = sorted(model.reg_image_ids(), key=lambda number: str(model.image(number).name))
    names = [str(model.image(number).name) for number in numbers]
    best, files = _best_place(job, names)
    folder, masks_folder = Path(job.places[best]), Path(job.masks[best]) if job.masks else None
    missing = tuple(name for name, path in zip(names, files, strict=True) if path is None)
    if missing:
        check_there(len(names), len(missing), f"{job.model}: there is no image {missing[0]} in {folder}", job)
        note(left_out(len(names), missing, folder))
    masks = _masks(masks_folder, names) if masks_folder else {}
    cameras, images, place = Sized(), list[Known](), dict[int, int]()
    for number, name, path in zip(numbers, names, files, strict=True):
        if path is not None:
            image = model.image(number)
            camera, scale = cameras.sized(model.camera(image.camera_id), path)
            features = np.array([point.xy for point in image.points2D], np.float64).reshape(-1, 2) * scale
            place[number] = len(images)
            ours = "/".join(parts_of(name, Path(job.model)))
            images.append(Known(ours, path, masks.get(name), camera, image.cam_from_world(), features))
    used = {known.path for known in images}
    there = (path for path in find_images(folder)[0] if not (masks_folder and path.is_relative_to(masks_folder)))
    beside = (path for path in there if path not in used)
    unplaced = tuple(str(path.relative_to(folder)) for path in beside)
    return KnownScene(tuple(images), points_of(model, place), unplaced)


def from_frames(job: ColmapJob) -> KnownScene:
    """Return what `tasks/splatting/capture/transforms.py` has read, one line of JSON an image.

    Raises:
        DatasetError: an image cannot be read or has another form than its camera says, or the points are damaged.
    """
    known = json.loads(Path(job.known).read_text())
    cameras, images = Sized(), []
    for row in known["pictures"]:
        lens = pycolmap.Camera(
            model=row["model"], width=row["width"], height=row["height"], params=row["params"], camera_id=1
        )
        camera, _ = cameras.sized(lens, Path(row["path"]))
        pose = pycolmap.Rigid3d(np.array(row["world_to_camera"], np.float64)[:3])
        mask = Path(row["mask"]) if row["mask"] else None
        images.append(Known(row["name"], Path(row["path"]), mask, camera, pose))
    positions, colors = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if known["points"]:
        found, colors = read_points(Path(known["points"]))
        positions = found.astype(np.float64)
    points = Points(positions, colors, [()] * len(positions))
    return KnownScene(tuple(images), points)


def read_model(folder: Path, spare: Path) -> Any:
    """Return the model in a folder, binary or text.

    Args:
        folder: of cameras, images and points3D; the last may lack.
        spare: a folder to complete it in.

    Raises:
        DatasetError: it cannot be read.
    """
    suffix = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
    if not (folder / f"points3D{suffix}").is_file():
        shutil.rmtree(spare, ignore_errors=True)
        spare.mkdir(parents=True)
        for name in ("cameras", "images", "rigs", "frames"):
            if (folder / f"{name}{suffix}").is_file():
                shutil.copyfile(folder / f"{name}{suffix}", spare / f"{name}{suffix}")
        (spare / f"points3D{suffix}").write_bytes(bytes(8) if suffix == ".bin" else b"")
    try:
        return pycolmap.Reconstruction(spare if spare.is_dir() else folder)
    except (ValueError, RuntimeError, IndexError, OSError) as exc:
        raise DatasetError(f"cannot read the COLMAP model in {folder}: {str(exc).splitlines()[0]}") from exc
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def points_of(model: Any, place: Mapping[int, int]) -> Points:
    """Return a model's points as they are seen in the images that are kept.

    Args:
        model: pycolmap.Reconstruction.
        place: index of each image by its number in the model.
    """
    numbers = sorted(model.point3D_ids())  # COLMAP's own order is that of a hash table
    points = [model.point3D(number) for number in numbers]
    tracks = [
        [(place[seen.image_id], seen.point2D_idx) for seen in point.track.elements if seen.image_id in place]
        for point in points
    ]
    # Points seen in fewer than two images are dropped; points without tracks (another tool's model) are kept.
    kept = [index for index, point in enumerate(points) if len(tracks[index]) > 1 or not point.track.elements]
    return Points(
        np.array([points[index].xyz for index in kept], np.float64).reshape(-1, 3),
        np.array([points[index].color for index in kept], np.uint8).reshape(-1, 3),
        [tracks[index] for index in kept],
        model.compute_mean_reprojection_error() if kept else None,
        model.compute_mean_track_length() if kept else None,
    )


class Sized:
    """Cameras at the sizes their images have: a folder of smaller copies is as good as the images themselves."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Any] = {}

    def sized(self, camera: Any, path: Path) -> tuple[Any, NDArray[np.float64]]:
        """Return the camera of an image's own pixels, the same object for the same, and the scale (2,) to them.

        Raises:
            DatasetError: the sides of the image have another ratio.
            ImageError: it cannot be read.
        """
        width, height = stored_size(path)
        if camera.is_spherical():
            raise DatasetError(f"{path}: its camera is {camera.model_name}, need one with a lens")
        if abs(camera.width / camera.height - width / height) > _ASPECT * width / height:
            raise DatasetError(f"{path} has {width}x{height} pixels, its camera {camera.width}x{camera.height}")
        key = (camera.model_name, camera.width, camera.height, *map(float, camera.params), width, height)
        if key not in self._made:
            self._made[key] = copy.deepcopy(camera)
            self._made[key].rescale(width, height)
        return self._made[key], np.array([width / camera.width, height / camera.height])


def _best_place(job: ColmapJob, names: Sequence[str]) -> tuple[int, list[Path | None]]:
    """Return which folder holds most of a model's images, the first of equals, and the file of each name."""
    places = [Path(place) for place in job.places]
    found = [find_named(place, names, Path(job.model)) for place in places]
    best = max(range(len(places)), key=lambda index: (len(names) - found[index].count(None), -index))
    return best, found[best]


def _masks(masks: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the mask of each image that has one, by the model's name of it; COLMAP or others have named it."""
    if not masks.is_dir():
        return {}
    long = find_named(masks, [f"{name}.png" for name in names], masks)
    short = find_named(masks, names, masks)
    found = zip(names, long, short, strict=True)
    return {name: path for name, first, second in found if (path := first or second)}
