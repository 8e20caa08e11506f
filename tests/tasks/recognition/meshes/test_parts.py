"""Meshes are mended where they can be, and all that cannot are told in one go."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.recognition.meshes.parts import Part, mended, read_parts

BOX = trimesh.creation.box((1, 2, 3))


def mend(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Part:
    return mended("a", "a.stl", "0", np.array(vertices, np.float64), np.array(faces, np.int64))


def said(part: Part) -> str:
    return "; ".join(part.notes)


def test_a_whole_mesh_has_no_notes():
    part = mend(BOX.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3))  # as an STL has it
    assert (len(part.vertices), len(part.faces), part.n_bodies, part.watertight, part.notes) == (8, 12, 1, True, ())
    assert part.diameter == pytest.approx(14**0.5)
    assert part.row()["size"] == [1, 2, 3]


def test_corners_that_are_no_numbers_cost_their_faces():
    vertices = np.vstack([BOX.vertices, [[np.nan, 0, 0], [np.inf, 0, 0], [1e30, 0, 0]]])
    part = mend(vertices, np.vstack([BOX.faces, [[0, 1, 8], [1, 2, 9], [2, 3, 10]]]))
    assert len(part.faces) == 12
    assert said(part) == "had 3 faces with corners that are NaN, infinite or gigantic: dropped"


def test_faces_without_area_and_twice_are_dropped():
    faces = np.vstack([BOX.faces, [[0, 0, 1], [3, 3, 3]], BOX.faces[:2], BOX.faces[2:3, ::-1]])
    part = mend(BOX.vertices, faces)
    assert (len(part.faces), part.watertight) == (12, True)
    assert said(part) == "had 2 faces without area: dropped; had 3 faces twice: dropped"


@pytest.mark.parametrize("turned", [[0, 5], list(range(12))], ids=["some", "all"])
def test_faces_inside_out_are_turned(turned):
    faces = np.array(BOX.faces)
    faces[turned] = faces[turned, ::-1]
    part = mend(BOX.vertices, faces)
    assert trimesh.Trimesh(part.vertices, part.faces).volume == pytest.approx(6)
    assert said(part) == f"had {len(turned)} of 12 faces inside out: turned"


def test_what_is_open_flat_or_in_pieces_is_said():
    assert "is not closed: 3 edges belong to one face only" in said(mend(BOX.vertices, BOX.faces[1:]))
    grid = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0]])
    assert "is flat" in said(mend(grid, [[0, 1, 2], [1, 3, 2], [1, 4, 3], [4, 5, 3]]))
    many = trimesh.util.concatenate([BOX.copy().apply_translation((4 * i, 0, 0)) for i in range(1000)])
    assert "an assembly or a scan: its 1000 bodies do not touch" in said(mend(many.vertices, many.faces))
    far = mend(BOX.vertices + [1e6, 0, 0], BOX.faces)
    assert "3e+05 times its diameter from the origin" in said(far)


def test_a_mesh_of_nothing_solid_is_refused():
    with pytest.raises(DatasetError, match="has no face whose corners are finite"):
        mend(BOX.vertices * np.nan, BOX.faces)
    with pytest.raises(DatasetError, match="has 0 faces with an area, need at least 4"):
        mend(BOX.vertices * 0, BOX.faces)


def folder(path: Path, **sizes: float) -> Path:
    path.mkdir()
    for name, size in sizes.items():
        BOX.copy().apply_scale(size).export(path / f"{name}.stl")
    return path


def test_parts_are_sorted_by_name_with_sub_folders(tmp_path):
    source = folder(tmp_path / "meshes", b=1, c=2)
    folder(source / "deep", a=3)
    assert [(part.name, part.file) for part in read_parts(source)] == [
        ("a", "deep/a.stl"),
        ("b", "b.stl"),
        ("c", "c.stl"),
    ]


def test_millimetres_among_metres_are_said(tmp_path):
    parts = read_parts(folder(tmp_path / "meshes", a=1, b=1.3, c=2000, d=1.5))
    assert [bool(part.notes) for part in parts] == [False, False, True, False]
    assert "is 1538 times larger than the others, perhaps in other units" in said(parts[2])


def test_the_same_file_twice_is_said(tmp_path):
    assert "is the same file as a.stl" in said(read_parts(folder(tmp_path / "meshes", a=1, b=1))[1])


def test_all_faults_are_told_in_one_go(tmp_path):
    source = folder(tmp_path / "meshes", good=1)
    (source / "empty.stl").touch()
    (source / "cut.stl").write_bytes((source / "good.stl").read_bytes()[:-10])
    os.mkfifo(source / "pipe.stl")
    BOX.export(source / "good.obj")
    with pytest.raises(DatasetError) as caught:
        read_parts(source)
    text = str(caught.value)
    assert text.startswith(f"4 of 5 meshes cannot be used in {source}: ")
    assert "empty.stl is empty, 0 bytes" in text
    assert "cut.stl is cut off" in text
    assert "pipe.stl found a pipe" in text
    assert "good.stl has the name of good.obj" in text


def test_a_folder_without_meshes_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="found 0 meshes, need at least 1 of 3MF, GLB, OBJ, PLY, STL"):
        read_parts(tmp_path)
    with pytest.raises(DatasetError, match="found nothing, need a folder of meshes"):
        read_parts(tmp_path / "missing")


def test_a_gltf_with_its_data_beside_it_is_no_mesh_here(tmp_path):
    source = folder(tmp_path / "meshes", a=1)
    shutil.copy(source / "a.stl", source / "a.gltf")
    assert len(read_parts(source)) == 1
