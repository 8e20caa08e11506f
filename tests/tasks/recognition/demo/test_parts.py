"""The demo's parts: whole, one piece each, and none twice."""

import trimesh

from tasks.recognition.demo.parts import make_demo_parts, make_unknown_parts


def test_parts_are_whole_and_different(tmp_path):
    known, unknown = make_demo_parts(tmp_path / "known"), make_unknown_parts(tmp_path / "unknown")
    meshes = [trimesh.load_mesh(path) for path in known + unknown]
    assert (len(known), len(unknown)) == (10, 8)
    assert all(mesh.is_watertight and mesh.body_count == 1 for mesh in meshes)
    assert len({path.name for path in known + unknown}) == 18
    assert len({round(mesh.volume) for mesh in meshes}) == 18
    assert all(20 < max(mesh.extents) < 120 for mesh in meshes)  # millimetres


def test_parts_are_the_same_files_each_time(tmp_path):
    first, again = make_demo_parts(tmp_path / "a"), make_demo_parts(tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
