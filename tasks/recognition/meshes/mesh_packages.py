"""Looks into GLB and 3MF files before they are read: what they unpack to, repeat, or fetch from elsewhere."""

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from lxml import etree

from tasks.base.errors import DatasetError
from tasks.base.outside import MIB

_GLB_HEAD = 20  # bytes: magic, version, length, and the length and kind of the first chunk
_VALUES_A_FACE = 16  # three corners with position, normal and texture, and their numbers
_MODEL_BYTES = 192 * MIB  # unpacked: a million faces; parsing takes ten times as much memory
_MAX_LEVELS = 32  # of nodes within nodes


def check_glb(data: bytes, most_faces: int) -> None:
    """Refuse a GLB that is cut off, takes data from other files, or would unpack to more than the faces allowed.

    Raises:
        DatasetError: it does.
    """
    if data[:4] != b"glTF" or len(data) < _GLB_HEAD:
        raise DatasetError("is no GLB: it does not begin with glTF")
    version, length, chunk = struct.unpack_from("<III", data, 4)
    if version != 2:
        raise DatasetError(f"is a GLB of version {version}, need 2")
    if length > len(data) or _GLB_HEAD + chunk > len(data):
        raise DatasetError(f"is cut off: its header promises {length} bytes, {len(data)} are there")
    try:
        content = json.loads(data[_GLB_HEAD : _GLB_HEAD + chunk])
    except (ValueError, RecursionError) as exc:
        raise DatasetError("is damaged: its first chunk is no JSON") from exc
    if not isinstance(content, dict):
        raise DatasetError("is damaged: its first chunk is no JSON object")
    _check_gltf(content, most_faces)


def _check_gltf(content: Mapping[str, Any], most_faces: int) -> None:
    outside = [uri for row in _rows(content, "buffers") if not str(uri := row.get("uri", "data:")).startswith("data:")]
    if outside:
        raise DatasetError(f"takes its data from another file, {str(outside[0])[:80]!r}: pack all into one GLB")
    if needed := content.get("extensionsRequired"):
        raise DatasetError(f"needs the extension {needed[0]}, which is not read: export it without")
    accessors = _rows(content, "accessors")
    total = sum(int(row.get("count", 0)) for row in accessors)
    if total > _VALUES_A_FACE * most_faces:
        raise DatasetError(f"would unpack to {total} values, need at most {_VALUES_A_FACE * most_faces}")
    sizes = [_mesh_faces(row, accessors) for row in _rows(content, "meshes")]
    nodes = _rows(content, "nodes")
    holds = {number: [int(child) for child in row.get("children", [])] for number, row in enumerate(nodes)}
    own = {number: sizes[row["mesh"]] if "mesh" in row else 0 for number, row in enumerate(nodes)}
    _check_repeats(
        {str(k): [str(c) for c in v] for k, v in holds.items()}, {str(k): n for k, n in own.items()}, most_faces
    )


def _rows(content: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    rows = content.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"is damaged: its {name} are no list of objects")
    return rows


def _mesh_faces(mesh: Mapping[str, Any], accessors: Sequence[Mapping[str, Any]]) -> int:
    named = [piece.get("indices", piece["attributes"].get("POSITION")) for piece in mesh.get("primitives", [])]
    return sum(int(accessors[number]["count"]) // 3 for number in named if number is not None)


def check_3mf(data: bytes, most_faces: int) -> None:
    """Refuse a 3MF that unpacks to too much, or whose objects hold others over and over.

    Raises:
        DatasetError: it does, or is no archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MODEL_BYTES:
                raise DatasetError(f"unpacks to {unpacked} bytes from {len(data)}, need at most {_MODEL_BYTES}")
            names = [name for name in archive.namelist() if name.lower().endswith(".model")]
            models = [archive.read(name) for name in names]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zipfile.LargeZipFile) as exc:
        raise DatasetError(f"is a damaged archive: {exc}") from exc
    if not any("3d/3dmodel.model" in name.lower() for name in names):
        raise DatasetError("is no 3MF: it holds no 3D/3dmodel.model")
    for model in models:
        _check_model(model, most_faces)


def _check_model(model: bytes, most_faces: int) -> None:
    if b"<!DOCTYPE" in model or b"<!ENTITY" in model:
        raise DatasetError("declares entities of its own, which no 3MF needs")
    holds: dict[str, list[str]] = {}
    own: dict[str, int] = {}
    try:
        for _, item in etree.iterparse(io.BytesIO(model), tag=("{*}object", "{*}build"), resolve_entities=False):
            name = item.get("id", "build")
            holds[name] = [part.get("objectid", "") for part in item.iter("{*}component", "{*}item")]
            own[name] = sum(1 for _ in item.iter("{*}triangle"))
            item.clear()
    except etree.XMLSyntaxError as exc:
        raise DatasetError(f"is damaged: {exc}") from exc
    _check_repeats(holds, own, most_faces)


def _check_repeats(holds: Mapping[str, Sequence[str]], own: Mapping[str, int], most_faces: int) -> None:
    """Refuse objects that hold themselves, or stand for more faces than allowed once all are written out."""
    totals = dict(own)
    for _ in range(_MAX_LEVELS):
        # Each object counts as one face at least: a million empty ones are as bad.
        deeper = {name: max(own[name], 1) + sum(totals.get(part, 0) for part in holds[name]) for name in holds}
        if any(total > most_faces for total in deeper.values()):
            raise DatasetError(f"stands for more than {most_faces} faces once its objects are written out")
        if deeper == totals:
            return
        totals = deeper
    raise DatasetError(f"holds objects within objects, deeper than {_MAX_LEVELS}, or within themselves")
