import struct
import subprocess
import sys

import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.geometry.rotations import quaternion_of
from tasks.splatting.poses.colmap_model import PinholeModel, matrix_of, read_model, write_model
from tasks.splatting.render.cameras import Camera


def some_model(n=5, n_points=20):
    rng = np.random.default_rng(0)
    cameras = tuple(
        Camera(f"{i:02}.jpg", 64, 48, 50 + i, 51, 31.5, 24.25, matrix_of(rng.normal(size=4), rng.normal(size=3)))
        for i in range(n)
    )
    points = rng.normal(size=(n_points, 3)).astype(np.float32)
    return PinholeModel(cameras, points, rng.integers(0, 256, (n_points, 3), dtype=np.uint8))


def same(first, second):
    assert [camera.name for camera in first.cameras] == [camera.name for camera in second.cameras]
    for a, b in zip(first.cameras, second.cameras, strict=True):
        assert (a.width, a.height, a.fx, a.fy, a.cx, a.cy) == (b.width, b.height, b.fx, b.fy, b.cx, b.cy)
        np.testing.assert_allclose(a.world_to_camera, b.world_to_camera, atol=1e-12)
    np.testing.assert_array_equal(first.points, second.points)
    np.testing.assert_array_equal(first.colors, second.colors)


def test_what_is_written_is_read(tmp_path):
    write_model(tmp_path, some_model())
    same(read_model(tmp_path), some_model())


def test_a_model_without_points_is_read(tmp_path):
    write_model(tmp_path, some_model(n_points=0))
    assert read_model(tmp_path).points.shape == (0, 3)


def test_colmap_reads_what_is_written_and_is_read_when_it_writes(tmp_path):
    """In a process of its own: importing pycolmap replaces the handler of SIGTERM."""
    write_model(tmp_path, some_model())
    (tmp_path / "again").mkdir()
    code = (
        "import sys, pycolmap\nmodel = pycolmap.Reconstruction(sys.argv[1])\nimage = model.image(3)\n"
        "model.add_observation(4, pycolmap.TrackElement(3, 0)) if image.num_points2D() else None\n"
        "print(image.name, model.camera(image.camera_id).params.tolist(), len(model.points3D))\n"
        "model.write_binary(sys.argv[2])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "again")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "02.jpg [52.0, 51.0, 31.5, 24.25] 20"
    same(read_model(tmp_path / "again"), some_model())


def test_pictures_come_by_name_and_points_by_number(tmp_path):
    model = some_model()
    write_model(tmp_path, PinholeModel(model.cameras[::-1], model.points, model.colors))
    head, *rows = [(tmp_path / "points3D.bin").read_bytes()[8 + 51 * i : 8 + 51 * (i + 1)] for i in range(-1, 20)]
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", 20) + b"".join(rows[::-1]))
    same(read_model(tmp_path), model)
    assert head == b""


def test_features_and_tracks_are_passed_over(tmp_path):
    write_model(tmp_path, some_model(n=1, n_points=1))
    image = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(image[:-8] + struct.pack("<Q", 2) + bytes(48))
    point = (tmp_path / "points3D.bin").read_bytes()
    (tmp_path / "points3D.bin").write_bytes(point[:-8] + struct.pack("<Q", 3) + bytes(24))
    same(read_model(tmp_path), some_model(n=1, n_points=1))


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_file_that_is_cut_off_or_missing_is_named(tmp_path, name):
    write_model(tmp_path, some_model())
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=f"truncated: .*{name}"):
        read_model(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match=f"No such file or directory: .*{name}"):
        read_model(tmp_path)


def test_a_lens_with_distortion_is_refused(tmp_path):
    write_model(tmp_path, some_model())
    opencv = struct.pack("<QiiQQ8d", 1, 1, 4, 64, 48, *range(1, 9))
    (tmp_path / "cameras.bin").write_bytes(opencv)
    with pytest.raises(DatasetError, match="lens model number 4, need SIMPLE_PINHOLE .* undistort"):
        read_model(tmp_path)


def test_a_simple_pinhole_has_one_focal_length(tmp_path):
    write_model(tmp_path, some_model(n=1))
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QiiQQ3d", 1, 1, 0, 64, 48, 70, 32, 24))
    camera = read_model(tmp_path).cameras[0]
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (70, 70, 32, 24)


@pytest.mark.parametrize("seed", range(20))
def test_quaternions_turn_into_matrices_and_back(seed):
    quaternion = np.random.default_rng(seed).normal(size=4)
    quaternion /= np.linalg.norm(quaternion) * np.sign(quaternion[0])
    rotation = matrix_of(quaternion, (0, 0, 0))[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(quaternion_of(rotation), quaternion, atol=1e-9)


@pytest.mark.parametrize("diagonal", [(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1)])
def test_half_turns_have_quaternions(diagonal):
    rotation = np.diag(np.array(diagonal, float))
    np.testing.assert_allclose(matrix_of(quaternion_of(rotation), (0, 0, 0))[:3, :3], rotation, atol=1e-9)
