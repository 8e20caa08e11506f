"""Reads cameras from a transforms.json, as nerfstudio, instant-ngp and Blender scripts write them."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.classification.images import write_jpeg
from tasks.errors import DatasetError
from tasks.splatting.cameras import Camera
from tasks.splatting.colmap_job import UNDISTORTED
from tasks.splatting.colmap_model import PinholeModel, write_model
from tasks.splatting.lens import Lens, Undistorter, undistorter
from tasks.splatting.picked import IMAGES
from tasks.splatting.pixels import JPEG_QUALITY, bounded, read_stored, shrunk
from tasks.splatting.point_cloud import read_points
from tasks.splatting.pose_facts import PoseReport
from tasks.splatting.scene import MASKS, MODEL
from tasks.splatting.stage_events import Note, StageProgress
from tasks.workspace import allowed_path, staged

TRANSFORMS = "transforms.json"

_MODELS = {"PINHOLE": False, "SIMPLE_PINHOLE": False, "OPENCV": False, "SIMPLE_RADIAL": False, "RADIAL": False}
_MODELS["OPENCV_FISHEYE"] = True
_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL looks along -z with y up


@dataclass(frozen=True, slots=True)
class _Frame:
    name: str  # of the picture to be written
    picture: Path
    mask: Path | None
    world_to_camera: NDArray[np.float64]  # (4, 4)
    values: Mapping[str, Any]  # its own, before the file's


def adopt_transforms(source: Path, folder: Path, max_side: int) -> Iterator[StageProgress | Note | PoseReport]:
    """Yield how far it is, at last a PoseReport; its scene is what `read_scene` reads.

    The world stays the file's own: `applied_transform` says how that came about, and its points lie in it too.

    Args:
        source: the file.
        folder: the result is kept here, at `find_poses`' place.
        max_side: pictures are shrunk to this, pixels.

    Raises:
        DatasetError: the file is damaged, a picture is missing or lies elsewhere, or the lens is not one of
            nerfstudio's perspective or fisheye ones.

    Source: nerfstudio documentation, "Data conventions".
    """
    values = _read(source)
    frames = [_frame(row, source, index) for index, row in enumerate(values["frames"])]
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{source} lists two pictures that come to the name {twice}, need different ones")
    points, colors = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    if values.get("ply_file_path"):
        points, colors = read_points(_inside(source, str(values["ply_file_path"])))
    else:
        yield Note(f"{source.name} names no points (ply_file_path): the splat starts from random ones")
    cameras, makers = [], dict[Lens, Undistorter]()
    with staged(folder / UNDISTORTED) as target:
        for done, frame in enumerate(frames, 1):
            cameras.append(_adopt(frame, values, target, max_side, makers))
            yield StageProgress("undistort", done, len(frames))
        cameras.sort(key=lambda camera: camera.name)
        write_model(target / MODEL, PinholeModel(tuple(cameras), points, colors))
    yield PoseReport(folder / UNDISTORTED, len(frames), len(frames), None, None, len(points), (), 1)


def _read(source: Path) -> dict[str, Any]:
    try:
        values = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as exc:
        raise DatasetError(f"cannot read {source}: {exc}") from exc
    if not isinstance(values, dict) or not isinstance(values.get("frames"), list) or not values["frames"]:
        raise DatasetError(f"{source} has no list of frames, need nerfstudio's transforms.json")
    return values


def _inside(source: Path, relative: str) -> Path:
    """Return a path the file names; it may come from anywhere, so it must not lead out of the file's folder."""
    root = os.path.abspath(source.parent)
    path = os.path.normpath(os.path.join(root, relative))
    if not Path(path).is_relative_to(root):
        raise DatasetError(f"{source} names {relative}, which leads out of its folder")
    allowed_path(Path(path))  # links on the way are followed, but not everywhere
    return Path(path)


def _frame(row: Any, source: Path, index: int) -> _Frame:
    where = f"{source}: frame {index}"
    if not isinstance(row, dict) or not isinstance(row.get("file_path"), str):
        raise DatasetError(f"{where} has no file_path")
    picture = _inside(source, row["file_path"])
    if not picture.is_file() and not picture.suffix:  # Blender's scripts leave it out
        picture = picture.with_suffix(".png")
    if not picture.is_file():
        raise DatasetError(f"{where}: there is no picture {picture}")
    try:
        matrix = np.array(row["transform_matrix"], np.float64)
    except (KeyError, TypeError, ValueError) as exc:
        raise DatasetError(f"{where} has no transform_matrix of numbers") from exc
    rigid = matrix.shape in {(3, 4), (4, 4)} and bool(np.isfinite(matrix).all())
    if not rigid or not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3):
        raise DatasetError(f"{where}: its transform_matrix is no turn and shift, need 4x4 with a rotation")
    full = np.eye(4)
    full[:3] = matrix[:3]
    mask = _inside(source, str(row["mask_path"])) if row.get("mask_path") else None
    relative = picture.relative_to(os.path.abspath(source.parent)).with_suffix(".jpg")
    parts = relative.parts[1:] if relative.parts[0].startswith("images") and len(relative.parts) > 1 else relative.parts
    return _Frame("_".join(parts), picture, mask, np.asarray(np.linalg.inv(full @ _TO_OPENCV), np.float64), row)


def _adopt(
    frame: _Frame, values: Mapping[str, Any], target: Path, max_side: int, makers: dict[Lens, Undistorter]
) -> Camera:
    """Write one picture, without distortion, and return its camera."""
    rgb = read_stored(frame.picture)
    lens = _lens({**values, **frame.values}, rgb.shape[1], rgb.shape[0], frame.picture)
    width, height = bounded(lens.width, lens.height, max_side)
    rgb, lens = shrunk(rgb, max_side), lens.resized(width, height)
    white = None
    if frame.mask is not None:
        white = cv2.resize(read_stored(frame.mask)[..., 1], (width, height), interpolation=cv2.INTER_NEAREST)
    fx, fy, cx, cy = lens.fx, lens.fy, lens.cx, lens.cy
    if not lens.plain:
        maker = makers.get(lens) or makers.setdefault(lens, undistorter(lens))
        fx, fy, cx, cy = maker.fx, maker.fy, maker.cx, maker.cy
        rgb = maker.picture(rgb)
        white = None if white is None else maker.mask(np.asarray(white, np.uint8))
    (target / IMAGES).mkdir(exist_ok=True)
    write_jpeg(target / IMAGES / frame.name, rgb, JPEG_QUALITY)
    if white is not None:
        (target / MASKS).mkdir(exist_ok=True)
        # Not by imwrite, which tells a full disk by False.
        (target / MASKS / f"{frame.name}.png").write_bytes(bytes(cv2.imencode(".png", white)[1]))
    return Camera(frame.name, width, height, fx, fy, cx, cy, frame.world_to_camera)


def _lens(values: Mapping[str, Any], width: int, height: int, picture: Path) -> Lens:
    """Return the lens of a picture of `width` x `height` pixels; the file's figures may be for another size."""
    model = str(values.get("camera_model", "OPENCV"))
    if model not in _MODELS:
        raise DatasetError(f"{picture}: camera_model {model}, need one of {', '.join(_MODELS)}")
    try:
        w, h = float(values.get("w", width)), float(values.get("h", height))
        fx = _focal(values, "fl_x", "camera_angle_x", w) or _focal(values, "fl_y", "camera_angle_y", h)
        fy = _focal(values, "fl_y", "camera_angle_y", h) or fx
        cx, cy = float(values.get("cx", w / 2)), float(values.get("cy", h / 2))
        k1, k2, k3, k4, p1, p2 = (float(values.get(name) or 0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    except (TypeError, ValueError) as exc:
        raise DatasetError(f"{picture}: its camera has something that is no number ({exc})") from exc
    if not fx or not fy or min(fx, fy, w, h) <= 0:
        raise DatasetError(f"{picture}: no focal length, need fl_x or camera_angle_x")
    if abs(w / h - width / height) > 0.02 * width / height:
        raise DatasetError(f"{picture} has {width}x{height} pixels, its camera {w:.0f}x{h:.0f}")
    fisheye = _MODELS[model]
    if k4 and not fisheye:
        raise DatasetError(f"{picture}: k4={k4} with camera_model {model}, need 0 unless OPENCV_FISHEYE")
    distortion = (k1, k2, k3, k4) if fisheye else (k1, k2, p1, p2, k3)
    x, y = width / w, height / h
    return Lens(width, height, fx * x, fy * y, cx * x, cy * y, distortion, fisheye)


def _focal(values: Mapping[str, Any], focal: str, angle: str, side: float) -> float | None:
    if values.get(focal) is not None:
        return float(values[focal])
    if values.get(angle) is not None:
        return 0.5 * side / math.tan(0.5 * float(values[angle]))
    return None
