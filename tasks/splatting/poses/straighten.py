"""Removes lens distortion in COLMAP's process; images without any are linked.

A pixel of a straight image that no pixel of the given one stands for does not count in training: it is cut off, and
what cannot be cut off is black in the image's mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from tasks.base.errors import DatasetError
from tasks.base.outside import open_file
from tasks.images.files import in_threads, link_or_copy, n_cores
from tasks.splatting.capture.frame_table import IMAGES, MASKS, MODEL
from tasks.splatting.capture.pixels import bounded, drop_exif, jpeg, read_stored, shrunk
from tasks.splatting.poses.known_cameras import Known, KnownScene

_ROOM = 0.5  # pixels: the outermost centre stands for the pixel around it
_STRAIGHT = frozenset({"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"})
_ORIENTATION = 0x0112  # EXIF
_JPEG = frozenset({".jpg", ".jpeg"})


@dataclass(frozen=True, slots=True)
class Map:
    """Where each pixel of a straight image comes from."""

    columns: NDArray[np.float32]  # (H, W), centres of pixels at whole numbers
    rows: NDArray[np.float32]  # (H, W)
    seen: NDArray[np.uint8]  # (H, W) 255: comes from the image, 0: from outside
    whole: bool  # all are seen


def plain(camera: Any) -> bool:
    """Return whether a camera's images are straight as they are."""
    return camera.model_name in _STRAIGHT and not any(camera.params[index] for index in camera.extra_params_idxs())


def straight_camera(camera: Any, max_side: int) -> Any:
    """Return the camera without distortion whose image is bounded in size, and shows nothing that was not seen.

    Raises:
        DatasetError: its lens bends more than a straight image can show.
    """
    width, height = bounded(camera.width, camera.height, max_side)
    if plain(camera):
        k, x, y = camera.calibration_matrix(), width / camera.width, height / camera.height
        params = [k[0, 0] * x, k[1, 1] * y, k[0, 2] * x, k[1, 2] * y]
        return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)
    made = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(max_image_size=max_side), camera)
    if min(made.width, made.height) < 2 or not np.isfinite(made.params).all():
        raise DatasetError(
            f"a camera {camera.model_name} of {camera.width}x{camera.height} pixels cannot be made straight"
        )
    return made


def map_between(straight: Any, bent: Any) -> Map:
    """Return where the pixels of a straight camera lie in the image of the one with distortion."""
    u, v = np.meshgrid(np.arange(straight.width) + 0.5, np.arange(straight.height) + 0.5)
    fx, fy, cx, cy = straight.params
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1).reshape(-1, 3)
    found = bent.img_from_cam(rays).reshape(*u.shape, 2) - 0.5
    x, y = found[..., 0], found[..., 1]
    with np.errstate(invalid="ignore"):
        inside = (x >= -_ROOM) & (x <= bent.width - 1 + _ROOM) & (y >= -_ROOM) & (y <= bent.height - 1 + _ROOM)
        # Beyond the image's edge a lens's polynomial may turn back, and show the middle a second time.
        (dx_v, dx_u), (dy_v, dy_u) = np.gradient(x), np.gradient(y)
        inside &= dx_u * dy_v - dx_v * dy_u > 0
    outside = np.float32(-10)
    seen = np.where(inside, 255, 0).astype(np.uint8)
    columns, rows = (np.where(inside, values, outside).astype(np.float32) for values in (x, y))
    return Map(columns, rows, seen, bool(inside.all()))


class Straightener:
    """Writes the images of a scene, each once.

    Args:
        scene: what is known.
        target: folder that gets images, masks and the model.
        max_side: images are shrunk to this, pixels.

    Raises:
        DatasetError: two images would get the same name, or a lens bends too much.
    """

    def __init__(self, scene: KnownScene, target: Path, max_side: int) -> None:
        self.scene, self._target, self._max_side = scene, target, max_side
        self._numbers = {id(known.camera): 0 for known in scene.images}
        self._numbers = {key: number for number, key in enumerate(self._numbers, 1)}
        self.cameras: dict[int, Any] = {}
        for known in scene.images:
            number = self._numbers[id(known.camera)]
            if number not in self.cameras:
                self.cameras[number] = straight_camera(known.camera, max_side)
                self.cameras[number].camera_id = number
        self._names = [self._name(known) for known in scene.images]
        first = dict[str, Path]()
        for name, known in zip(self._names, scene.images, strict=True):
            if name in first:
                raise DatasetError(f"{first[name]} and {known.path} would both be called {name}: rename one")
            first[name] = known.path
        self._map = lru_cache(maxsize=n_cores() + 1)(self._made_map)

    def write(self, num_threads: int, done: Callable[[], None]) -> None:
        """Write all of it; `done` is called after each image.

        Raises:
            ImageError: an image or mask cannot be read.
        """
        by_camera = sorted(range(len(self.scene.images)), key=lambda index: self._number(index))
        for _ in in_threads(self._image, by_camera, max(0, num_threads)):
            done()
        self._model(self._names).write(_made(self._target / MODEL))

    def _number(self, index: int) -> int:
        return self._numbers[id(self.scene.images[index].camera)]

    def _made_map(self, number: int) -> Map:
        bent = next(known.camera for index, known in enumerate(self.scene.images) if self._number(index) == number)
        return map_between(self.cameras[number], _at_most(bent, self._max_side))

    def _as_it_is(self, camera: Any) -> bool:
        return plain(camera) and max(camera.width, camera.height) <= self._max_side

    def _name(self, known: Known) -> str:
        """Return the name of an image; what is written again is a PNG unless it was given as JPEG."""
        name = _with_suffix(known.name, known.path.suffix)
        kept = self._as_it_is(known.camera) or PurePosixPath(name).suffix.lower() in {*_JPEG, ".png"}
        return name if kept else f"{name}.png"

    def _image(self, index: int) -> None:
        """Write or link an image and its mask."""
        known, number, name = self.scene.images[index], self._number(index), self._names[index]
        small = bounded(known.camera.width, known.camera.height, self._max_side)
        if self._as_it_is(known.camera):
            read_stored(known.path)  # damage is an error here, before a run has waited for its GPU
            _link(known.path, _place(self._target / IMAGES / name))
            if known.mask:
                self._write_mask(name, _white(known.mask, small))
            return
        rgb = shrunk(read_stored(known.path), self._max_side)
        white = _white(known.mask, small) if known.mask else None
        if not plain(known.camera):
            made = self._map(number)
            border = cv2.BORDER_REPLICATE
            rgb = np.asarray(cv2.remap(rgb, made.columns, made.rows, cv2.INTER_CUBIC, borderMode=border), np.uint8)
            if white is not None:
                straight = cv2.remap(white, made.columns, made.rows, cv2.INTER_NEAREST, borderValue=0)
                white = np.minimum(np.asarray(straight, np.uint8), made.seen)
            elif not made.whole:
                white = made.seen
        _write(_place(self._target / IMAGES / name), rgb)
        if white is not None:
            self._write_mask(name, white)

    def _write_mask(self, name: str, white: NDArray[np.uint8]) -> None:
        _place(self._target / MASKS / f"{name}.png").write_bytes(_png(white))

    def _model(self, names: list[str]) -> Any:
        """Return the reconstruction of the straight images, with features and tracks where there were some."""
        model = pycolmap.Reconstruction()
        for camera in self.cameras.values():
            model.add_camera_with_trivial_rig(camera)
        for index, known in enumerate(self.scene.images):
            image = pycolmap.Image(
                name=names[index],
                keypoints=_moved(known, self.cameras[self._number(index)]),
                camera_id=self._number(index),
                image_id=index + 1,
            )
            model.add_image_with_trivial_frame(image, known.pose)
        points = self.scene.points
        for position, color, track in zip(points.positions, points.colors, points.tracks, strict=True):
            elements = [pycolmap.TrackElement(index + 1, feature) for index, feature in track]
            model.add_point3D(position, pycolmap.Track(elements), color)
        if points.reprojection_error_px is not None:
            model.update_point_3d_errors()
        return model


def _at_most(camera: Any, max_side: int) -> Any:
    """Return the camera of an image that was shrunk."""
    made = pycolmap.Camera(camera.todict())
    made.rescale(*bounded(camera.width, camera.height, max_side))
    return made


def _moved(known: Known, straight: Any) -> NDArray[np.float64]:
    """Return the features of an image (K, 2) where they lie in the straight one."""
    if not len(known.features):
        return known.features
    rays = known.camera.cam_from_img(known.features)
    found: NDArray[np.float64] = straight.img_from_cam(np.concatenate([rays, np.ones((len(rays), 1))], 1))
    return np.nan_to_num(found, nan=-1.0)


def _white(mask: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(read_stored(mask)[..., 1], size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _with_suffix(name: str, suffix: str) -> str:
    """Return the name with the suffix the file has: other tools tell its kind by that."""
    return name if name.lower().endswith(suffix.lower()) else str(PurePosixPath(name).with_suffix(suffix))


def _link(path: Path, target: Path) -> None:
    """Link an image, the same bytes; only a JPEG that EXIF wants turned is copied without it, pixels untouched."""
    link_or_copy(path, target)
    if path.suffix.lower() in _JPEG:
        with open_file(path, DatasetError) as file, Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION, 1) != 1
        if turned:
            drop_exif(target)  # its camera describes the pixels as stored; the new file replaces the link


def _write(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an image, without loss unless it was given as JPEG."""
    is_jpeg = path.suffix.lower() in _JPEG
    path.write_bytes(jpeg(rgb) if is_jpeg else _png(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)))


def _png(pixels: cv2.typing.MatLike) -> bytes:
    _, data = cv2.imencode(".png", pixels)
    return data.tobytes()
