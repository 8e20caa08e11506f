"""Reads coloured points from PLY files of other tools."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import CLOUD_BYTES, read_bytes

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_GREY = 128


def read_points(path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return points (P, 3) and colours (P, 3) RGB, grey where the file has none; only points that are finite.

    Raises:
        DatasetError: it cannot be read, is no PLY, is truncated, or its vertices have no x, y, z.
    """
    data = read_bytes(path, DatasetError, CLOUD_BYTES)
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise DatasetError(f"{path} is no PLY: begins with {data[:8]!r}, need 'ply' and a header")
    form, count, fields = _header(data[:end].decode("ascii", "replace"), path)
    body = data[data.index(b"\n", end) + 1 :]
    table = _vertices(body, form, count, fields, path)
    names = table.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise DatasetError(f"{path}: its vertices have {', '.join(names) or 'nothing'}, need x, y, z")
    points = np.stack([table[name] for name in "xyz"], 1).astype(np.float32)
    colors = np.full(points.shape, _GREY, np.uint8)
    if {"red", "green", "blue"} <= set(names):
        values = np.stack([table[name] for name in ("red", "green", "blue")], 1)
        colors = (values * 255 if values.dtype.kind == "f" else values).clip(0, 255).astype(np.uint8)
    finite = np.isfinite(points).all(1)
    return points[finite], colors[finite]


def _header(text: str, path: Path) -> tuple[str, int, list[tuple[str, str]]]:
    """Return format, number of vertices, and (name, type) of their fields."""
    form, count, fields, element = "", -1, [], ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            if count < 0 and words[1] != "vertex":
                raise DatasetError(f"{path}: its first element is {words[1]}, need vertex")
            element = words[1]
            count = int(words[2]) if element == "vertex" and words[2].isdecimal() else count
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise DatasetError(f"{path}: found {line.strip()!r}, need plain numbers for a vertex")
            fields.append((words[2], _TYPES[words[1]]))
    if form not in _ORDERS or count < 0:
        raise DatasetError(f"{path}: format {form!r} with {count} vertices, need one of {', '.join(_ORDERS)}")
    return form, count, fields


def _vertices(body: bytes, form: str, count: int, fields: list[tuple[str, str]], path: Path) -> NDArray[np.void]:
    layout = np.dtype([(name, _ORDERS[form] + kind) for name, kind in fields])
    if form != "ascii":
        if len(body) < count * layout.itemsize:
            raise DatasetError(f"truncated: {path} has {len(body)} of {count * layout.itemsize} bytes of vertices")
        return np.frombuffer(body, layout, count)
    lines = body.split(b"\n")[:count]
    table = np.zeros(count, layout)
    try:
        rows = [tuple(map(float, line.split())) for line in lines]
        if len(rows) < count:
            raise ValueError(f"{len(rows)} lines")
        for index, (name, _) in enumerate(fields):
            table[name] = [row[index] for row in rows]
    except (ValueError, IndexError) as exc:
        raise DatasetError(
            f"truncated or damaged: {path} needs {count} lines of {len(fields)} numbers ({exc})"
        ) from exc
    return table
