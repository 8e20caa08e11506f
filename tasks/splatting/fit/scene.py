"""Reads the scene that a splat is fitted to: images, cameras and points."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.splatting.capture.frame_table import IMAGES, MASKS, MODEL
from tasks.splatting.capture.pixels import bounded, read_stored
from tasks.splatting.poses.colmap_model import read_model
from tasks.splatting.poses.similarity import Similarity
from tasks.splatting.render.cameras import Camera


@dataclass(frozen=True, slots=True)
class View:
    """One image and the camera that took it."""

    camera: Camera
    image: Path
    mask: Path | None  # white: counts, black: does not; None: all of the image counts


@dataclass(frozen=True, slots=True)
class Scene:
    """All views, by name, and the points seen in them, in one world."""

    views: tuple[View, ...]
    points: NDArray[np.float32]  # (P, 3) world units
    colors: NDArray[np.uint8]  # (P, 3) RGB

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return where the cameras stand, (V, 3)."""
        return np.array([view.camera.center for view in self.views]).reshape(-1, 3)

    @property
    def extent(self) -> float:
        """Return the largest distance of a camera from the mean of all."""
        return float(np.linalg.norm(self.centers - self.centers.mean(0), axis=1).max())


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """A view's pixels at the size they are trained at."""

    camera: Camera  # of that size
    rgb: NDArray[np.uint8]  # (H, W, 3)
    mask: NDArray[np.bool_] | None  # (H, W) True: counts


def read_scene(folder: Path) -> Scene:
    """Return the scene in a folder of undistorted images: images/, sparse/0/, and masks/ where there are some.

    Raises:
        DatasetError: the model cannot be read, is empty, or an image of it is missing.
    """
    model = read_model(folder / MODEL)
    if not model.cameras:
        raise DatasetError(f"no image has a pose in {folder / MODEL}, need at least 3")
    views = []
    for camera in model.cameras:
        image = folder / IMAGES / camera.name
        if not image.is_file():
            raise DatasetError(f"{folder / MODEL} has a pose for {camera.name}, but there is no {image}")
        mask = folder / MASKS / f"{camera.name}.png"
        views.append(View(camera, image, mask if mask.is_file() else None))
    return Scene(tuple(views), model.points, model.colors)


def normalized(scene: Scene) -> tuple[Scene, Similarity]:
    """Return the scene moved so that learning rates and limits mean the same in every one, and the move.

    The mean of the cameras comes to the origin, the farthest camera to distance 1, and the mean of the cameras' up
    directions points along +z. `Similarity.inverse` leads back.

    Raises:
        DatasetError: all cameras stand at one place, so nothing tells how large the scene is.

    Source: gsplat `normalize_world_space`; that scales by the median distance from the point looked at, and turns
    the points' principal axes as well.
    """
    centers = scene.centers
    middle = centers.mean(0)
    extent = scene.extent
    if not extent > 1e-9 * (1 + float(np.abs(middle).max())):
        raise DatasetError(f"all {len(scene.views)} cameras stand at one place; need images from several")
    rotation = _upright(np.array([-view.camera.world_to_camera[1, :3] for view in scene.views]).mean(0))
    move = Similarity(1 / extent, rotation, -rotation @ middle / extent)
    return moved(scene, move), move


def moved(scene: Scene, move: Similarity) -> Scene:
    """Return the scene in another world."""
    views = tuple(replace(view, camera=move.camera(view.camera)) for view in scene.views)
    return replace(scene, views=views, points=move.points(scene.points).astype(np.float32))


def _upright(up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shortest turn (3, 3) that brings `up` to +z; none where cameras look up in all directions."""
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.eye(3)
    x, y, z = up / length
    if z < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    return np.array(
        [[1 - x * x / (1 + z), -x * y / (1 + z), -x], [-x * y / (1 + z), 1 - y * y / (1 + z), -y], [x, y, z]]
    )


def split(views: Sequence[View], test_every: int) -> tuple[list[View], list[View]]:
    """Return (train, held out): every n-th by name is held out, beginning with the first; 0: none.

    Raises:
        DatasetError: nothing is left to train on.

    Source: gsplat `examples/datasets/colmap.py`, index % test_every == 0.
    """
    ordered = sorted(views, key=lambda view: view.camera.name)
    held_out = ordered[::test_every] if test_every else []
    train = [view for index, view in enumerate(ordered) if not test_every or index % test_every]
    if not train:
        raise DatasetError(f"test_every={test_every} holds out all {len(ordered)} images, need some to train on")
    return train, held_out


def load_image(view: View, max_side: int) -> LoadedImage:
    """Return the view's pixels and its camera, shrunk so that the longest side is at most `max_side` pixels.

    Raises:
        ImageError: the image or its mask cannot be read.
        DatasetError: the image or its mask has not the size the camera has.
    """
    camera = view.camera
    rgb = _checked(read_stored(view.image), camera, view.image)
    width, height = bounded(camera.width, camera.height, max_side)
    mask = None
    if view.mask is not None:
        white = _checked(read_stored(view.mask), camera, view.mask)[..., 1]
        # A partly masked pixel does not count, because masked content must not bleed in.
        mask = np.asarray(cv2.resize(white, (width, height), interpolation=cv2.INTER_AREA)) >= 250
    if (width, height) != (camera.width, camera.height):
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return LoadedImage(camera.resized(width, height), rgb, mask)


def _checked(pixels: NDArray[np.uint8], camera: Camera, path: Path) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise DatasetError(f"{path} has {width}x{height} pixels, its camera {camera.width}x{camera.height}")
    return pixels
