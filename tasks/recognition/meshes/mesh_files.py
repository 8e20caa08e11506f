"""Reads the triangles of STL, OBJ, PLY, GLB and 3MF files, and follows nothing out of the file."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import MIB, read_bytes
from tasks.recognition.meshes.mesh_packages import check_3mf, check_glb

MESH_SUFFIXES = frozenset({".stl", ".obj", ".ply", ".glb", ".3mf"})
MESH_BYTES = 512 * MIB
"""Of a file: a binary STL of `MAX_FACES` faces takes a fifth, an ASCII one about as much."""
MAX_FACES = 2_000_000

_STL_HEAD, _STL_FACE = 84, 50  # bytes
_STL_END = 1024  # bytes that hold the last line, with a name
_VERTEX = re.compile(rb"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_DAMAGED: tuple[type[Exception], ...] = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError, EOFError, OSError),
    *(NotImplementedError, StopIteration, ZeroDivisionError, SyntaxError, ImportError, struct.error),
    *(RuntimeError, AssertionError, zipfile.BadZipFile, zlib.error),
)
"""What trimesh raises on files that are not what they say; of errors of our own none is among these."""


class Triangles(NamedTuple):
    """What a file holds, as it is."""

    vertices: NDArray[np.float64]  # (V, 3), units of the file
    faces: NDArray[np.int64]  # (F, 3), numbers of vertices
    notes: list[str]  # what was strange and could be passed over


def read_triangles(path: Path, data: bytes | None = None) -> Triangles:
    """Return the triangles of all bodies of a file, placed as its own scene places them.

    Args:
        data: the content, where it has been read already.

    Raises:
        DatasetError: the file is none of the five formats, is cut off, unpacks to too much, or holds no triangle; the
            message starts with what is wrong and does not name the file.
    """
    data = read_bytes(path, DatasetError, MESH_BYTES) if data is None else data
    if not data:
        raise DatasetError("is empty, 0 bytes")
    try:
        triangles = _READERS[path.suffix.lower()](data)
    except _DAMAGED as exc:
        raise DatasetError(f"is damaged, or no {path.suffix[1:].upper()}: {_sentence(exc)}") from exc
    if len(triangles.faces) == 0:
        raise DatasetError("holds no triangle")
    if len(triangles.faces) > MAX_FACES:
        raise DatasetError(f"has {len(triangles.faces)} faces, need at most {MAX_FACES}: export it coarser")
    if triangles.faces.min() < 0 or triangles.faces.max() >= len(triangles.vertices):
        raise DatasetError(f"has a face of a vertex that is not there, of {len(triangles.vertices)}")
    return triangles


def _sentence(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__} {text[:120]}".strip()


def _read_stl(data: bytes) -> Triangles:
    """Tell binary from ASCII by the length, then by the words: either may begin with "solid", or with anything."""
    promised = struct.unpack_from("<I", data, 80)[0] if len(data) >= _STL_HEAD else 0
    needed = _STL_HEAD + _STL_FACE * promised
    is_text = _is_text(data)
    if len(data) != needed and is_text and re.search(rb"\bfacet\b", data, re.IGNORECASE):
        return _read_ascii_stl(data)
    if len(data) < _STL_HEAD or is_text:
        if is_text and re.match(rb"\s*solid\b.*\bendsolid\b", data, re.IGNORECASE | re.DOTALL):
            raise DatasetError("holds no triangle")
        raise DatasetError("is no STL: neither the length of a binary one nor the words of an ASCII one")
    if len(data) < needed:
        held = (len(data) - _STL_HEAD) // _STL_FACE
        raise DatasetError(f"is cut off: its header promises {promised} faces, {held} are there")
    extra = len(data) - needed
    records = np.frombuffer(data, _RECORD, promised, _STL_HEAD)
    vertices = records["corners"].reshape(-1, 3).astype(np.float64)
    notes = [f"{extra} bytes after the last face were passed over"] * (extra > 0)
    return Triangles(vertices, np.arange(len(vertices)).reshape(-1, 3), notes)


def _is_text(data: bytes) -> bool:
    """Return whether the first and the last kilobyte hold no byte that texts do not."""
    control = bytes(set(range(32)) - {9, 10, 11, 12, 13})
    sample = data[:1024] + data[-1024:]
    return len(sample.translate(None, control)) == len(sample)


def _read_ascii_stl(data: bytes) -> Triangles:
    """Read the words "vertex x y z"; all others say nothing that is needed."""
    corners = _VERTEX.findall(data)
    if len(corners) % 3 or b"endsolid" not in data[-_STL_END:].lower():
        raise DatasetError(f"is cut off: an ASCII STL without its end, after {len(corners) // 3} faces")
    values = np.array(corners, dtype=np.bytes_).reshape(-1, 3).astype(np.float64)
    return Triangles(values, np.arange(len(values)).reshape(-1, 3), [])


def _read_obj(data: bytes) -> Triangles:
    text = data.decode("utf-8-sig", errors="replace")
    return _of_loaded(trimesh.load_scene(io.BytesIO(text.encode()), file_type="obj", skip_materials=True))


def _read_ply(data: bytes) -> Triangles:
    return _of_loaded(trimesh.load_scene(io.BytesIO(data), file_type="ply", skip_materials=True))


def _read_glb(data: bytes) -> Triangles:
    check_glb(data, MAX_FACES)
    return _of_loaded(trimesh.load_scene(io.BytesIO(data), file_type="glb", skip_materials=True))


def _read_3mf(data: bytes) -> Triangles:
    check_3mf(data, MAX_FACES)
    return _of_loaded(trimesh.load_scene(io.BytesIO(data), file_type="3mf"))


def _of_loaded(scene: trimesh.Scene) -> Triangles:
    """Join the meshes of a scene; points and lines are passed over."""
    vertices, faces, others, n = [np.empty((0, 3))], [np.empty((0, 3), np.int64)], 0, 0
    for geometry in scene.dump():
        if not isinstance(geometry, trimesh.Trimesh):
            others += 1
            continue
        vertices.append(np.asarray(geometry.vertices, np.float64))
        faces.append(np.asarray(geometry.faces, np.int64) + n)
        n += len(geometry.vertices)
    notes = [f"{others} sets of points or lines were passed over"] * (others > 0)
    return Triangles(np.concatenate(vertices), np.concatenate(faces), notes)


_READERS: dict[str, Callable[[bytes], Triangles]] = {
    ".stl": _read_stl,
    ".obj": _read_obj,
    ".ply": _read_ply,
    ".glb": _read_glb,
    ".3mf": _read_3mf,
}
