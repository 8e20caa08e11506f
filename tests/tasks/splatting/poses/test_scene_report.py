import cv2
import numpy as np
import pytest

from tasks.images.images import read_rgb, write_jpeg
from tasks.splatting.capture.frame_table import FrameRow, write_table
from tasks.splatting.demo.scene import looking_at
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tasks.splatting.poses.pose_facts import PoseReport
from tasks.splatting.poses.scene_report import (
    CAMERAS,
    CONTACT_SHEET,
    SHARPNESS,
    pose_markdown,
    pose_metrics,
    write_pose_report,
)
from tasks.splatting.render.cameras import Camera
from tasks.splatting.resume_point import FRAMES_TABLE
from tests.tasks.splatting.videos import panned, wall

N = 7


@pytest.fixture
def prepared(tmp_path):
    names = [f"{i}.jpg" for i in range(N)]
    for folder in (tmp_path / "frames" / "images", tmp_path / "scene" / "images"):
        folder.mkdir(parents=True)
        for i, name in enumerate(names):
            write_jpeg(folder / name, panned(8 * i, wall()), 90)
    cameras = [
        Camera(name, 128, 96, 100, 100, 64, 48, looking_at(np.array([3, 0.4 * i, 1.0]), np.zeros(3)))
        for i, name in enumerate(names[:-1])
    ]
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    model = PinholeModel(tuple(cameras), points, np.full((50, 3), 99, np.uint8))
    write_model(tmp_path / "scene" / "sparse" / "0", model)
    rows = [FrameRow(i, i / 10, 100.0 + i, True, "sharpest of its window", name) for i, name in enumerate(names)]
    write_table(tmp_path / "frames" / FRAMES_TABLE, [*rows, FrameRow(N, N / 10, 5.0, False, "black", "")])
    return PoseReport(tmp_path / "scene", N - 1, N, 0.5, 3.25, 1234, (names[-1],), 2)


def test_all_pictures_are_written_and_show_something(prepared, tmp_path):
    paths = write_pose_report(prepared, tmp_path / "frames", tmp_path / "report")
    assert [path.name for path in paths] == sorted([CAMERAS, CONTACT_SHEET, SHARPNESS])
    for path in paths:
        assert read_rgb(path).std() > 5


def test_the_contact_sheet_has_every_picture_and_frames_those_without_a_pose(prepared, tmp_path):
    write_pose_report(prepared, tmp_path / "frames", tmp_path / "report")
    sheet = read_rgb(tmp_path / "report" / CONTACT_SHEET)
    assert sheet.shape == (96 + 12, N * (128 + 6) + 6, 3)
    orange = np.abs(sheet.astype(int) - (230, 159, 0)).max(2) < 40
    cells = [orange[:, 6 + i * 134 : 6 + i * 134 + 128].mean() for i in range(N)]
    assert cells[-1] > 0.08
    assert cells[-1] > 3 * max(cells[:-1])


def test_without_a_table_there_is_no_curve_of_sharpness(prepared, tmp_path):
    (tmp_path / "frames" / FRAMES_TABLE).unlink()
    paths = write_pose_report(prepared, tmp_path / "frames", tmp_path / "report")
    assert [path.name for path in paths] == sorted([CAMERAS, CONTACT_SHEET])


def test_a_scene_without_points_is_drawn(prepared, tmp_path):
    folder = tmp_path / "scene" / "sparse" / "0"
    (folder / "points3D.bin").write_bytes(bytes(8))
    write_pose_report(prepared, tmp_path / "frames", tmp_path / "report")
    assert cv2.imread(str(tmp_path / "report" / CAMERAS)) is not None


def test_figures_and_table_say_the_same(prepared):
    assert pose_metrics(prepared) == {
        "registered": 6.0,
        "pictures": 7.0,
        "registered_share": pytest.approx(6 / 7),
        "reprojection_error_px": 0.5,
        "track_length": 3.25,
        "points": 1234.0,
        "models": 2.0,
    }
    text = pose_markdown(prepared)
    for words in ("6 of 7 (86%)", "0.50 px", "1,234", "2, the largest is used", "`6.jpg`"):
        assert words in text


def test_what_the_source_does_not_say_is_left_out(tmp_path):
    report = PoseReport(tmp_path, 4, 4, None, None, 0, (), 1)
    assert set(pose_metrics(report)) == {"registered", "pictures", "registered_share", "points", "models"}
    assert "reprojection" not in pose_markdown(report)
    assert "Without a pose" not in pose_markdown(report)
