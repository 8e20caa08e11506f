"""Reads cameras from transforms.json, as nerfstudio, instant-ngp and Blender scripts write it."""

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import read_json
from tasks.base.progress import Note
from tasks.base.workspace import allowed_path, write_json
from tasks.splatting.capture.frame_table import IMAGES
from tasks.splatting.capture.named_images import Needed, check_there, find_named, left_out, parts_of
from tasks.splatting.capture.pixels import stored_size
from tasks.splatting.poses.colmap_job import ColmapJob

TRANSFORMS = "transforms.json"

_MODELS = {"PINHOLE": False, "SIMPLE_PINHOLE": False, "OPENCV": False, "SIMPLE_RADIAL": False, "RADIAL": False}
_MODELS["OPENCV_FISHEYE"] = True
_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL looks along -z with y up
_KNOWN = "known.json"
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def known_of(source: Path, folder: Path, needed: Needed) -> Iterator[Note | ColmapJob]:
    """Yield what to know of a file of cameras, at last the job that takes them over.

    The world stays the file's own: `applied_transform` says how that came about, and its points lie in it too.

    Args:
        source: the file.
        folder: what was read is kept here.
        needed: how many images have to be there.

    Raises:
        DatasetError: the file is damaged, too many images are missing or one lies elsewhere, or the lens is not one
            of nerfstudio's perspective or fisheye ones.

    Source: nerfstudio documentation, "Data conventions".
    """
    values = _read(source)
    rows = [_checked(row, f"{source}: frame {index}") for index, row in enumerate(values["frames"])]
    files = find_named(source.parent, [row["file_path"] for row in rows], source)
    lost = [index for index, path in enumerate(files) if path is None]
    if lost:
        check_there(len(rows), len(lost), _lost(rows[lost[0]]["file_path"], lost[0], source), needed)
        yield Note(left_out(len(rows), [rows[index]["file_path"] for index in lost], source))
    taken: dict[Path, int] = {}
    for index, path in enumerate(files):
        if path is not None:
            taken.setdefault(path, index)
    if n_twice := len(rows) - len(lost) - len(taken):
        yield Note(f"{n_twice} frame(s) of {source} name an image that another one names: the first of each is taken")
    masks = _masks(rows, source)
    images = []
    for name, path in zip(_names(list(taken), source.parent), taken, strict=True):
        row, mask = rows[taken[path]], masks.get(taken[path])
        lens = _lens({**values, **row}, *stored_size(path), path)
        pose = _world_to_camera(row, f"{source}: frame {taken[path]}").tolist()
        images.append({"name": name, "path": path, "mask": mask, "world_to_camera": pose, **lens})
    points = _points(values, source)
    write_json(folder / _KNOWN, {"pictures": sorted(images, key=lambda row: str(row["name"])), "points": points})
    where = folder.resolve()
    yield ColmapJob(stages=(), folder=str(where), known=str(where / _KNOWN), source=str(source))


def _read(source: Path) -> dict[str, Any]:
    values = read_json(source, DatasetError)
    if not isinstance(values, dict) or not isinstance(values.get("frames"), list) or not values["frames"]:
        raise DatasetError(f"{source} has no list of frames, need nerfstudio's transforms.json")
    return values


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("file_path"), str):
        raise DatasetError(f"{where} has no file_path")
    return row


def _lost(name: str, index: int, source: Path) -> str:
    if Path(name).is_absolute():
        return f"{source} names {name}, which leads out of its folder"
    return f"{source}: frame {index}: there is no image {source.parent.joinpath(*parts_of(name, source))}"


def _masks(rows: Sequence[Mapping[str, Any]], source: Path) -> dict[int, Path]:
    """Return the mask of each frame that names one."""
    named = {index: str(row["mask_path"]) for index, row in enumerate(rows) if row.get("mask_path")}
    found = dict(zip(named, find_named(source.parent, list(named.values()), source), strict=True))
    if lost := [index for index, path in found.items() if path is None]:
        raise DatasetError(f"{source}: frame {lost[0]}: there is no mask {named[lost[0]]}")
    return {index: path for index, path in found.items() if path}


def _points(values: Mapping[str, Any], source: Path) -> Path | None:
    """Return the file of points that is named, if there is one; it must not lead out of the file's folder."""
    if not values.get("ply_file_path"):
        return None
    path = source.parent.joinpath(*parts_of(str(values["ply_file_path"]), source))
    allowed_path(path)  # links on the way are followed, but not everywhere
    if not path.is_file():
        raise DatasetError(f"{source} names the points {path}, which are not there")
    return path


def _world_to_camera(row: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    try:
        matrix = np.array(row["transform_matrix"], np.float64)
    except (KeyError, TypeError, ValueError) as exc:
        raise DatasetError(f"{where} has no transform_matrix of numbers") from exc
    rigid = matrix.shape in {(3, 4), (4, 4)} and bool(np.isfinite(matrix).all())
    if not rigid or not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3):
        raise DatasetError(f"{where}: its transform_matrix is no turn and shift, need 4x4 with a rotation")
    full = np.eye(4)
    full[:3] = matrix[:3]
    return np.asarray(np.linalg.inv(full @ _TO_OPENCV), np.float64)


def _names(paths: Sequence[Path], root: Path) -> list[str]:
    """Return a name in the scene for each image: its own, with its folders but for the first, all different."""
    names = []
    for path in paths:
        parts = path.relative_to(os.path.abspath(root)).parts
        inner = len(parts) > 1 and parts[0].startswith(IMAGES)
        names.append("_".join(parts[1:] if inner else parts))
    known = Counter(name.lower() for name in names)
    whole = [
        name if known[name.lower()] == 1 else "_".join(path.relative_to(os.path.abspath(root)).parts)
        for name, path in zip(names, paths, strict=True)
    ]
    return _numbered(whole)


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, with a number where an earlier one is the same."""
    taken, made = set[str](), []
    for name in names:
        stem, suffix = os.path.splitext(name)
        tries = itertools.chain([name], (f"{stem}_{number}{suffix}" for number in itertools.count(2)))
        made.append(next(one for one in tries if one.lower() not in taken))
        taken.add(made[-1].lower())
    return made


def _lens(values: Mapping[str, Any], width: int, height: int, image: Path) -> dict[str, Any]:
    """Return COLMAP's camera of an image of `width` x `height` pixels; the file's figures may be for another size."""
    model = str(values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV")).upper()
    if model not in _MODELS:
        raise DatasetError(f"{image}: camera_model {model}, need one of {', '.join(_MODELS)}")
    try:
        w, h = float(values.get("w", width)), float(values.get("h", height))
        fx = _focal(values, "x", w) or _focal(values, "y", h)
        fy = _focal(values, "y", h) or fx
        cx, cy = float(values.get("cx", w / 2)), float(values.get("cy", h / 2))
        listed = dict(zip(_DISTORTION, values.get("distortion_params") or (), strict=False))  # nerfstudio's
        k1, k2, k3, k4, p1, p2 = (float(values.get(name) or listed.get(name) or 0) for name in _DISTORTION)
    except (TypeError, ValueError) as exc:
        raise DatasetError(f"{image}: its camera has something that is no number ({exc})") from exc
    if not fx or not fy or min(fx, fy, w, h) <= 0:
        raise DatasetError(f"{image}: no focal length, need fl_x or camera_angle_x")
    if abs(w / h - width / height) > 0.02 * width / height:
        raise DatasetError(f"{image} has {width}x{height} pixels, its camera {w:.0f}x{h:.0f}")
    fisheye = _MODELS[model]
    if k4 and not fisheye:
        raise DatasetError(f"{image}: k4={k4} with camera_model {model}, need 0 unless OPENCV_FISHEYE")
    x, y = width / w, height / h
    name, distortion = _distortion(fisheye, (k1, k2, k3, k4, p1, p2))
    params = [fx * x, fy * y, cx * x, cy * y, *distortion]
    return {"model": name, "width": width, "height": height, "params": params}


def _distortion(fisheye: bool, values: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """Return COLMAP's name for a lens and its parameters behind the intrinsics."""
    k1, k2, k3, k4, p1, p2 = values
    if fisheye:
        return "OPENCV_FISHEYE", (k1, k2, k3, k4)
    if k3:
        return "FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    return ("OPENCV", (k1, k2, p1, p2)) if any(values) else ("PINHOLE", ())


def _focal(values: Mapping[str, Any], axis: str, side: float) -> float | None:
    """Return a focal length in pixels: given as such, or by an angle of view in radians or (instant-ngp) degrees."""
    if values.get(f"fl_{axis}") is not None:
        return float(values[f"fl_{axis}"])
    angle = values.get(f"camera_angle_{axis}")
    if angle is None and values.get(f"{axis}_fov") is not None:
        angle = math.radians(float(values[f"{axis}_fov"]))
    return None if angle is None else 0.5 * side / math.tan(0.5 * float(angle))
