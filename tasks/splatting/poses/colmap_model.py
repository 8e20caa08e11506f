"""Reads and writes COLMAP's binary models: cameras, images with poses, points.

By hand and not with pycolmap: importing that replaces the process's SIGTERM handler, and whoever trains needs its own
to stop in order. What is trained on is always undistorted, so two lens models are all there is to know.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import CLOUD_BYTES, read_bytes
from tasks.base.workspace import write_atomic
from tasks.geometry.rotations import quaternion_of, rotation_matrix
from tasks.splatting.render.cameras import Camera

_SIMPLE_PINHOLE, _PINHOLE = 0, 1
_N_PARAMS = {_SIMPLE_PINHOLE: 3, _PINHOLE: 4}
_POINT_HEAD = struct.Struct("<Q3d3BdQ")  # id, position, colour, reprojection error, length of the track


@dataclass(frozen=True, slots=True)
class PinholeModel:
    """Posed images without lens distortion, and the points seen in them."""

    cameras: tuple[Camera, ...]  # by name
    points: NDArray[np.float32]  # (P, 3) world units
    colors: NDArray[np.uint8]  # (P, 3) RGB


class _Reader:
    """A file read from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self.data = read_bytes(path, DatasetError, CLOUD_BYTES)

    def unpack(self, layout: struct.Struct) -> tuple[float, ...]:
        try:
            values = layout.unpack_from(self.data, self.at)
        except struct.error as exc:
            raise DatasetError(f"truncated: {self.path} ends after {len(self.data)} bytes, in the middle") from exc
        self.at += layout.size
        return values

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise DatasetError(f"truncated: {self.path} ends after {len(self.data)} bytes, in a name")
        name = self.data[self.at : end].decode("utf-8", "surrogateescape")
        self.at = end + 1
        return name


def read_model(folder: Path) -> PinholeModel:
    """Return the model in a folder of cameras.bin, images.bin and points3D.bin.

    Raises:
        DatasetError: a file is missing or truncated, or a camera still has lens distortion.

    Source: COLMAP documentation, "Output Format", binary.
    """
    lenses = _read_lenses(_Reader(folder / "cameras.bin"))
    cameras = _read_images(_Reader(folder / "images.bin"), lenses)
    points, colors = _read_points(_Reader(folder / "points3D.bin"))
    return PinholeModel(tuple(sorted(cameras, key=lambda camera: camera.name)), points, colors)


def _read_lenses(reader: _Reader) -> dict[int, Camera]:
    lenses = {}
    for _ in range(int(reader.unpack(struct.Struct("<Q"))[0])):
        number, model, width, height = map(int, reader.unpack(struct.Struct("<iiQQ")))
        if model not in _N_PARAMS:
            raise DatasetError(
                f"camera {number} in {reader.path} has COLMAP's lens model number {model}, need SIMPLE_PINHOLE (0) or "
                "PINHOLE (1): undistort the images first"
            )
        values = reader.unpack(struct.Struct(f"<{_N_PARAMS[model]}d"))
        fx, fy, cx, cy = values if model == _PINHOLE else (values[0], *values)
        lenses[number] = Camera("", width, height, fx, fy, cx, cy, np.eye(4))
    return lenses


def _read_images(reader: _Reader, lenses: dict[int, Camera]) -> list[Camera]:
    cameras = []
    for _ in range(int(reader.unpack(struct.Struct("<Q"))[0])):
        _, *pose, lens = reader.unpack(struct.Struct("<I7di"))
        name = reader.text()
        n_features = int(reader.unpack(struct.Struct("<Q"))[0])
        reader.at += 24 * n_features  # column, row and point of each
        if int(lens) not in lenses:
            raise DatasetError(f"{reader.path}: image {name} was taken by camera {int(lens)}, cameras.bin lacks it")
        known = lenses[int(lens)]
        matrix = matrix_of(pose[:4], pose[4:])
        cameras.append(
            Camera(name, known.width, known.height, known.fx, known.fy, known.cx, known.cy, matrix),
        )
    return cameras


def _read_points(reader: _Reader) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rows = []
    for _ in range(int(reader.unpack(struct.Struct("<Q"))[0])):
        number, *values, n_views = reader.unpack(_POINT_HEAD)
        rows.append((number, *values[:6]))
        reader.at += 8 * int(n_views)
    rows.sort()  # COLMAP's own order is that of a hash table
    table = np.array(rows, np.float64).reshape(-1, 7)
    return table[:, 1:4].astype(np.float32), table[:, 4:].astype(np.uint8)


def write_model(folder: Path, model: PinholeModel) -> None:
    """Write a model that `read_model`, COLMAP and other trainers read; without the images' features."""
    lenses = [struct.pack("<Q", len(model.cameras))]
    images = [struct.pack("<Q", len(model.cameras))]
    for number, camera in enumerate(model.cameras, 1):
        lens = (camera.fx, camera.fy, camera.cx, camera.cy)
        lenses.append(struct.pack("<iiQQ4d", number, _PINHOLE, camera.width, camera.height, *lens))
        quaternion = quaternion_of(camera.world_to_camera[:3, :3])
        images.append(struct.pack("<I7di", number, *quaternion, *camera.world_to_camera[:3, 3], number))
        images.append(camera.name.encode("utf-8", "surrogateescape") + b"\0" + struct.pack("<Q", 0))
    points = [struct.pack("<Q", len(model.points))]
    for number, (point, color) in enumerate(zip(model.points.tolist(), model.colors.tolist(), strict=True), 1):
        points.append(_POINT_HEAD.pack(number, *point, *color, 0.0, 0))
    write_atomic(folder / "cameras.bin", b"".join(lenses))
    write_atomic(folder / "images.bin", b"".join(images))
    write_atomic(folder / "points3D.bin", b"".join(points))


def matrix_of(quaternion: Sequence[float], translation: Sequence[float]) -> NDArray[np.float64]:
    """Return the (4, 4) of a rotation w x y z, of any length but zero, and a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(np.asarray(quaternion) / np.linalg.norm(quaternion))
    matrix[:3, 3] = translation
    return matrix
