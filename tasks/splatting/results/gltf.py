"""Writes splats as binary glTF with the extension KHR_gaussian_splatting.

Source: github.com/KhronosGroup/glTF, extensions/2.0/Khronos/KHR_gaussian_splatting/README.md (ratified).
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.workspace import write_atomic
from tasks.geometry.harmonics import C0
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.results.ply import finite, unit_quaternions
from tasks.splatting.results.rotate_splat import turned, upright

EXTENSION = "KHR_gaussian_splatting"
FLOAT, UNSIGNED_BYTE = 5126, 5121
ARRAY_BUFFER = 34962
MAX_LOG_SCALE = 80.0  # e to the 89th is infinite in float32


def write_gltf(gaussians: Gaussians, path: Path, cameras: Sequence[Camera] = ()) -> int:
    """Write the splat as .glb; return how many Gaussians were left out because they are not finite.

    Args:
        gaussians: N of them.
        path: of the file.
        cameras: what they show upright is upright in the file, where y is up; none: y is down in the world.

    Raises:
        DatasetError: no Gaussian is left, which the format has no way to say.
        StorageError: the file cannot be written.
    """
    kept, n_left_out = finite(gaussians)
    if not len(kept):
        raise DatasetError(f"{path}: found no Gaussian to write ({n_left_out} are not finite), need at least 1")
    attributes = _attributes(turned(kept, upright(list(cameras))))
    blobs = [values.tobytes() for values in attributes.values()]  # each a multiple of four bytes long
    document = _document(attributes)
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = sum(len(blob) for blob in blobs)
    parts = [
        struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + length),
        struct.pack("<I4s", len(text), b"JSON") + text,
        struct.pack("<I4s", length, b"BIN\0"),
        *blobs,
    ]
    write_atomic(path, b"".join(parts))
    return n_left_out


def _attributes(kept: Gaussians) -> dict[str, NDArray[Any]]:
    """Return every attribute as a table of N rows, in the units of the file."""
    wxyz = unit_quaternions(kept)
    opacity = (1 / (1 + np.exp(-kept.opacities.double().numpy()))).astype(np.float32)
    sh0 = kept.sh0[:, 0].numpy()
    found: dict[str, NDArray[Any]] = {
        "POSITION": kept.means.numpy(),
        "COLOR_0": _point_colors(sh0, opacity),
        f"{EXTENSION}:ROTATION": wxyz[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(np.minimum(kept.scales.numpy(), MAX_LOG_SCALE)),
        f"{EXTENSION}:OPACITY": opacity[:, None],
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": sh0,
    }
    for degree in range(1, kept.sh_degree + 1):
        for i in range(2 * degree + 1):
            found[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"] = kept.shN[:, degree**2 - 1 + i].numpy()
    return {name: np.ascontiguousarray(values) for name, values in found.items()}


def _point_colors(sh0: NDArray[np.float32], opacity: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return linear RGBA (N, 4) for programs that draw the splat as points."""
    srgb = np.clip(C0 * sh0 + 0.5, 0, 1)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.round(255 * np.concatenate([linear, opacity[:, None]], axis=1)).astype(np.uint8)


def _document(attributes: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the JSON part, its views in the order of the attributes."""
    accessors, views, offset = [], [], 0
    for i, (name, values) in enumerate(attributes.items()):
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": values.nbytes, "target": ARRAY_BUFFER})
        offset += values.nbytes
        shape = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
        kind = UNSIGNED_BYTE if values.dtype == np.uint8 else FLOAT
        accessor: dict[str, Any] = {"bufferView": i, "componentType": kind, "count": len(values), "type": shape}
        if kind == UNSIGNED_BYTE:
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        accessors.append(accessor)
    splat = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {
        "attributes": {name: i for i, name in enumerate(attributes)},
        "mode": 0,
        "extensions": {EXTENSION: splat},
    }
    return {
        "asset": {"version": "2.0", "generator": "trainyard"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "splat"}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
