import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.splatting.capture.point_cloud import read_points

POINTS = np.array([[0, 1, 2], [-3.5, 4.25, 1e-3], [7, 8, 9]], np.float32)
COLORS = np.array([[1, 2, 3], [255, 0, 128], [9, 8, 7]], np.uint8)


def header(form, n=3, kind="float", color="uchar"):
    rows = [*(f"property {kind} {axis}" for axis in "xyz"), "property float nx"]
    rows += [f"property {color} {name}" for name in ("red", "green", "blue")] if color else []
    faces = ["element face 0", "property list uchar int vertex_indices"]
    head = ["ply", f"format {form} 1.0", "comment made by hand", f"element vertex {n}"]
    return "\n".join([*head, *rows, *faces, "end_header", ""]).encode()


def binary(order="<", kind="f4"):
    layout = [(axis, order + kind) for axis in "xyz"] + [("nx", order + "f4")] + [(c, "u1") for c in "rgb"]
    table = np.zeros(3, layout)
    for index, axis in enumerate("xyz"):
        table[axis] = POINTS[:, index]
    for index, channel in enumerate("rgb"):
        table[channel] = COLORS[:, index]
    return table.tobytes()


def text():
    return "".join(f"{x} {y} {z} 0 {r} {g} {b}\n" for (x, y, z), (r, g, b) in zip(POINTS, COLORS, strict=True)).encode()


@pytest.mark.parametrize(
    "data",
    [
        header("ascii") + text(),
        header("binary_little_endian") + binary(),
        header("binary_big_endian") + binary(">"),
        header("binary_little_endian", kind="double") + binary(kind="f8"),
    ],
)
def test_points_and_colours_are_read_in_every_form(tmp_path, data):
    (tmp_path / "a.ply").write_bytes(data)
    points, colors = read_points(tmp_path / "a.ply")
    np.testing.assert_array_equal(points, POINTS)
    np.testing.assert_array_equal(colors, COLORS)


def test_points_without_colours_are_grey(tmp_path):
    (tmp_path / "a.ply").write_bytes(header("ascii", color="") + b"0 1 2 0\n3 4 5 0\n6 7 8 0\n")
    assert (read_points(tmp_path / "a.ply")[1] == 128).all()


def test_points_that_are_not_finite_are_left_out(tmp_path):
    (tmp_path / "a.ply").write_bytes(header("ascii", color="") + b"0 1 2 0\nnan 4 5 0\n6 inf 8 0\n")
    np.testing.assert_array_equal(read_points(tmp_path / "a.ply")[0], [[0, 1, 2]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "is no PLY"),
        (header("binary_little_endian") + binary()[:-1], "truncated: .* 56 of 57 bytes"),
        (header("ascii") + text()[:20], "truncated or damaged: .* needs 3 lines"),
        (header("zip"), "format 'zip'"),
        (header("ascii").replace(b"float x", b"float a") + text(), "need x, y, z"),
        (header("ascii").replace(b"property float x", b"property list uchar int x"), "need plain numbers"),
    ],
)
def test_damage_is_named(tmp_path, data, message):
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        read_points(tmp_path / "a.ply")
