"""One folder, one ZIP, all in them or nothing."""

import zipfile

import pytest

from tasks.base.errors import DatasetError
from tasks.base.progress import Note, Progress
from tasks.splatting.params import ExportParams
from tasks.splatting.results.export import Exported, draw_all, export_all, write_archive
from tasks.splatting.results.ply import read_ply
from tests.tasks.splatting.export_scene import rasterizer, ring, splat

SMALL = ExportParams(seconds=0.25, fps=8, max_side=32)
NOTHING = ExportParams(spz=False, gltf=False, viewer=False, turntable=False, camera_path=False, depth_maps=False)


def test_everything_lies_in_the_folder_and_in_the_zip(tmp_path):
    drawing = list(draw_all(splat(20, 1), ring(3), rasterizer, SMALL, tmp_path / "drawn"))
    *before, result = export_all(splat(20, 1), ring(3), SMALL, tmp_path / "out", drawn=tmp_path / "drawn")
    assert isinstance(result, Exported)
    assert {name for name in result.files if "/" not in name} == {
        *("camera_path.mp4", "cameras.json", "splat.glb", "splat.ply", "splat.spz", "turntable.mp4", "viewer.html")
    }
    assert [name for name in result.files if "/" in name] == [
        *("depth/0000_view_00.jpg", "depth/0000_view_00.png", "depth/0001_view_01.jpg", "depth/0001_view_01.png"),
        *("depth/0002_view_02.jpg", "depth/0002_view_02.png", "depth/depth.json"),
    ]
    assert (result.n_gaussians, result.n_left_out) == (20, 0)
    with zipfile.ZipFile(result.archive) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"splat/{name}" for name in result.files]
        for name in result.files:
            assert archive.read(f"splat/{name}") == (tmp_path / "out" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "out"]

    assert [event.done for event in drawing] == list(range(1, 8))
    assert drawing[-1] == Progress("export", 7, 7)  # 2 videos of 2 frames, 3 maps
    progress = [event for event in before if isinstance(event, Progress)]
    assert len(progress) == len(before)  # no notes
    assert [event.done for event in progress] == list(range(1, progress[-1].total + 1))
    assert progress[-1] == Progress("export", 7, 7)  # 6 files, and what was drawn


def test_only_the_ply_and_the_cameras_are_always_written(tmp_path):
    *_, result = export_all(splat(20, 1), ring(3), NOTHING, tmp_path / "out")
    assert isinstance(result, Exported)
    assert result.files == ("cameras.json", "splat.ply")


@pytest.mark.parametrize(
    ("field", "file"),
    [
        *(("spz", "splat.spz"), ("gltf", "splat.glb"), ("viewer", "viewer.html"), ("turntable", "turntable.mp4")),
        *(("camera_path", "camera_path.mp4"), ("depth_maps", "depth/depth.json")),
    ],
)
def test_each_switch_is_its_file(tmp_path, field, file):
    params = NOTHING.model_copy(update={field: True, "seconds": 0.1, "fps": 10, "max_side": 32})
    drawing = list(draw_all(splat(5, 0), ring(2), rasterizer, params, tmp_path / "drawn"))
    *before, result = export_all(splat(5, 0), ring(2), params, tmp_path / "out", drawn=tmp_path / "drawn")
    assert isinstance(result, Exported)
    assert file in result.files
    last = before[-1]
    assert isinstance(last, Progress)
    assert last.done == last.total
    assert not drawing or drawing[-1].done == drawing[-1].total


def test_broken_gaussians_are_told_of_and_in_no_file(tmp_path):
    gaussians = splat(20, 1)
    gaussians.means[3] = float("nan")
    list(draw_all(gaussians, ring(3), rasterizer, SMALL, tmp_path / "drawn"))
    first, *_, result = export_all(gaussians, ring(3), SMALL, tmp_path / "out", drawn=tmp_path / "drawn")
    assert first == Note("1 of 20 Gaussians are not finite and left out")
    assert isinstance(result, Exported)
    assert (result.n_gaussians, result.n_left_out) == (19, 1)
    assert len(read_ply(tmp_path / "out" / "splat.ply")) == 19


def test_an_export_that_is_given_up_leaves_the_one_before_as_it_was(tmp_path):
    list(export_all(splat(4, 0), ring(2), NOTHING, tmp_path / "out"))
    before = (tmp_path / "out" / "splat.ply").read_bytes()
    again = export_all(splat(9, 0), ring(2), SMALL, tmp_path / "out")
    for _ in range(5):
        next(again)
    again.close()
    assert (tmp_path / "out" / "splat.ply").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_drawing_that_is_given_up_leaves_nothing(tmp_path):
    drawing = draw_all(splat(4, 0), ring(2), rasterizer, SMALL, tmp_path / "drawn")
    for _ in range(3):
        next(drawing)
    drawing.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("n_gaussians", "n_cameras"), [(0, 2), (3, 0)])
def test_nothing_to_show_is_an_error_that_counts(tmp_path, n_gaussians, n_cameras):
    says = rf"found {n_cameras} camera\(s\) and {n_gaussians} finite Gaussian\(s\) of {n_gaussians}"
    with pytest.raises(DatasetError, match=says):
        list(draw_all(splat(n_gaussians, 0), ring(n_cameras), rasterizer, SMALL, tmp_path / "drawn"))
    with pytest.raises(DatasetError, match=says):
        list(export_all(splat(n_gaussians, 0), ring(n_cameras), SMALL, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_the_same_files_give_the_same_zip(tmp_path):
    (tmp_path / "a").mkdir()
    for name, text in (("b.txt", "b" * 1000), ("a.png", "a" * 1000)):
        (tmp_path / "a" / name).write_text(text)
    for archive in ("1.zip", "2.zip"):
        write_archive(tmp_path / "a", ["b.txt", "a.png"], tmp_path / archive)
        (tmp_path / "a" / "b.txt").touch()
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        first, second = archive.infolist()
    assert (first.filename, first.compress_type, first.date_time) == ("splat/a.png", 0, (1980, 1, 1, 0, 0, 0))
    assert (second.filename, second.compress_type) == ("splat/b.txt", zipfile.ZIP_DEFLATED)
