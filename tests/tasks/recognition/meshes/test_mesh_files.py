"""Mesh files as other programs write them, cut off, mislabelled, or made to fill the memory."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from trimesh.exchange.stl import export_stl, export_stl_ascii

from tasks.base.errors import DatasetError
from tasks.recognition.meshes.mesh_files import read_triangles

BOX = trimesh.creation.box((1, 2, 3))


def read(path: Path, data: bytes) -> tuple[int, list[str]]:
    path.write_bytes(data)
    triangles = read_triangles(path)
    assert np.ptp(triangles.vertices, axis=0) == pytest.approx((1, 2, 3))
    return len(triangles.faces), triangles.notes


@pytest.mark.parametrize("kind", ["stl", "obj", "ply", "glb", "3mf"])
def test_five_formats_are_read(tmp_path, kind):
    data = BOX.export(file_type=kind)
    assert read(tmp_path / f"a.{kind}", data.encode() if isinstance(data, str) else data) == (12, [])


def test_a_binary_stl_may_begin_with_solid(tmp_path):
    data = bytearray(export_stl(BOX))
    data[:80] = b"solid facet normal vertex".ljust(80)
    assert read(tmp_path / "a.stl", bytes(data)) == (12, [])


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"  \r\n" * 30, b"# made by hand\n" + b" " * 100, b""])
def test_an_ascii_stl_may_begin_with_anything(tmp_path, start):
    text = export_stl_ascii(BOX).encode()
    assert read(tmp_path / "a.stl", start + text) == (12, [])
    assert read(tmp_path / "b.stl", start + text.upper().replace(b"\n", b"\r\n")) == (12, [])


def test_bytes_after_a_binary_stl_are_passed_over(tmp_path):
    assert read(tmp_path / "a.stl", export_stl(BOX) + b"\0" * 7) == (
        12,
        ["7 bytes after the last face were passed over"],
    )


def test_nothing_outside_the_file_is_opened(tmp_path):
    (tmp_path / "b.mtl").mkdir()  # could not be read
    data = b"mtllib b.mtl\nmtllib ../../../etc/passwd\nusemtl x\n" + BOX.export(file_type="obj").encode()
    assert read(tmp_path / "a.obj", data) == (12, [])


def glb(content: dict[str, object]) -> bytes:
    text = json.dumps({"asset": {"version": "2.0"}, **content}).encode()
    text += b" " * (-len(text) % 4)
    return b"glTF" + struct.pack("<IIII", 2, 20 + len(text), len(text), 0x4E4F534A) + text


def model(inner: str, head: str = "") -> bytes:
    space = 'xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"'
    return packed(f'<?xml version="1.0"?>{head}<model unit="millimeter" {space}><resources>{inner}</resources></model>')


def packed(text: str, name: str = "3D/3dmodel.model") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return file.getvalue()


def holding(levels: int) -> str:
    """Return objects that hold ten of the one before each."""
    objects = '<object id="0"><mesh><vertices/><triangles/></mesh></object>'
    for level in range(1, levels):
        objects += (
            f'<object id="{level}"><components>{f"""<component objectid="{level - 1}"/>""" * 10}</components></object>'
        )
    return objects + f'<build><item objectid="{levels - 1}"/></build>'


MILLIONS = {"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 10**9}
STL, ASCII = export_stl(BOX), export_stl_ascii(BOX).encode()
BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "nothing": ("a.stl", lambda: b"", "is empty, 0 bytes"),
    "no triangle": ("a.stl", lambda: STL[:80] + bytes(4), "holds no triangle"),
    "ASCII without triangles": ("a.stl", lambda: b"solid a\nendsolid a\n", "holds no triangle"),
    "cut off": ("a.stl", lambda: STL[:-30], "cut off: its header promises 12 faces, 11 are there"),
    "ASCII cut off": ("a.stl", lambda: ASCII[:-60], "cut off: an ASCII STL without its end"),
    "not at all": ("a.stl", lambda: b"hello", "is no STL"),
    "a picture": ("a.stl", lambda: b"\x89PNG" + bytes(range(256)) * 2, "cut off: its header promises"),
    "wrong corner": ("a.obj", lambda: b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "vertex that is not there|is damaged"),
    "PLY of millions": (
        "a.ply",
        lambda: (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\n"
            b"property float y\nproperty float z\nend_header\n"
        ),
        "is damaged|holds no triangle",
    ),
    "no PLY": ("a.ply", lambda: b"hello", "is damaged"),
    "no GLB": ("a.glb", lambda: b"hello" * 9, "does not begin with glTF"),
    "GLB cut off": ("a.glb", lambda: BOX.export(file_type="glb")[:-9], "is cut off: its header promises"),
    "GLB with files": ("a.glb", lambda: glb({"buffers": [{"uri": "../b.bin"}]}), "takes its data from another file"),
    "GLB of millions": ("a.glb", lambda: glb({"accessors": [MILLIONS]}), "would unpack to 1000000000 values"),
    "GLB in itself": ("a.glb", lambda: glb({"nodes": [{"children": [0]}]}), "once its objects|within themselves"),
    "compressed GLB": ("a.glb", lambda: glb({"extensionsRequired": ["KHR_draco"]}), "needs the extension KHR_draco"),
    "no 3MF": ("a.3mf", lambda: b"hello", "is a damaged archive"),
    "other archive": ("a.3mf", lambda: packed("x", "a.txt"), "holds no 3D/3dmodel.model"),
    "zip bomb": ("a.3mf", lambda: packed(" " * (200 << 20)), "unpacks to 209715200 bytes"),
    "3MF of billions": ("a.3mf", lambda: model(holding(12)), "once its objects are written out"),
    "3MF in itself": (
        "a.3mf",
        lambda: model('<object id="1"><components><component objectid="1"/></components></object>'),
        "within themselves",
    ),
    "entities": ("a.3mf", lambda: model("&a;", '<!DOCTYPE m [<!ENTITY a "b">]>'), "declares entities"),
    "no XML": ("a.3mf", lambda: packed("<model"), "is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(tmp_path, name):
    file, make, said = BAD[name]
    (tmp_path / file).write_bytes(make())
    with pytest.raises(DatasetError, match=said) as caught:
        read_triangles(tmp_path / file)
    assert str(tmp_path) not in str(caught.value)  # the reader of a folder names the file


def tried(path: Path, data: bytes) -> None:
    """Read a file, which may be an error of ours and no other."""
    path.write_bytes(data)
    try:
        read_triangles(path)
    except DatasetError:
        return


@pytest.mark.parametrize("kind", ["stl", "obj", "ply", "glb", "3mf"])
def test_a_damaged_file_is_an_error_of_ours_or_none(tmp_path, kind):
    rng = np.random.default_rng(0)
    data = BOX.export(file_type=kind)
    data = data.encode() if isinstance(data, str) else data
    for n in range(0, len(data), max(1, len(data) // 40)):
        tried(tmp_path / f"a.{kind}", data[:n])
    for _ in range(100):
        flipped = np.frombuffer(data, np.uint8).copy()
        flipped[rng.integers(len(flipped), size=3)] = rng.integers(256, size=3)
        tried(tmp_path / f"a.{kind}", flipped.tobytes())
