from dataclasses import replace

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.images.images import write_jpeg
from tasks.splatting.demo.scene import looking_at
from tasks.splatting.fit.scene import load_image, normalized, read_scene, split
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tasks.splatting.render.cameras import Camera

W, H = 64, 48


def camera(index, position=(3.0, 0.0, 1.0)):
    return Camera(f"{index:03}.jpg", W, H, 50, 52, 32, 24, looking_at(np.array(position, float), np.zeros(3)))


def ring(n=8, middle=(0.0, 0.0, 0.0)):
    angles = 2 * np.pi * np.arange(n) / n
    places = [np.array([3 * np.cos(a), 3 * np.sin(a), 1.0]) + middle for a in angles]
    return [replace(camera(i), world_to_camera=looking_at(p, np.array(middle))) for i, p in enumerate(places)]


def write_scene(folder, cameras, masks=()):
    points = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    write_model(folder / "sparse" / "0", PinholeModel(tuple(cameras), points, np.full((10, 3), 7, np.uint8)))
    for place in ("images", "masks"):
        (folder / place).mkdir()
    ramp = np.repeat(np.arange(W, dtype=np.uint8)[None, :, None] * 4, H, 0).repeat(3, 2)
    for each in cameras:
        write_jpeg(folder / "images" / each.name, ramp, 95)
    white = np.full((H, W), 255, np.uint8)
    white[:, : W // 2] = 0
    for name in masks:
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), white)
    return folder


def test_views_come_by_name_with_their_pictures_masks_and_points(tmp_path):
    scene = read_scene(write_scene(tmp_path, ring()[::-1], masks=["002.jpg"]))
    assert [view.camera.name for view in scene.views] == [f"{i:03}.jpg" for i in range(8)]
    assert [view.image.name for view in scene.views] == [f"{i:03}.jpg" for i in range(8)]
    assert [view.mask is not None for view in scene.views] == [i == 2 for i in range(8)]
    assert (scene.points.shape, scene.points.dtype) == ((10, 3), np.float32)
    assert (scene.colors.shape, scene.colors.dtype) == ((10, 3), np.uint8)


def test_a_picture_that_is_missing_is_named(tmp_path):
    write_scene(tmp_path, ring())
    (tmp_path / "images" / "003.jpg").unlink()
    with pytest.raises(DatasetError, match="pose for 003.jpg, but there is no"):
        read_scene(tmp_path)


def test_a_model_without_pictures_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no image has a pose"):
        read_scene(write_scene(tmp_path, []))


def test_normalized_scenes_are_centred_of_size_one_and_upright(tmp_path):
    scene = read_scene(write_scene(tmp_path, ring(middle=(5.0, -2.0, 9.0))))
    world, move = normalized(scene)
    np.testing.assert_allclose(world.centers.mean(0), 0, atol=1e-9)
    assert np.linalg.norm(world.centers, axis=1).max() == pytest.approx(1)
    assert world.extent == pytest.approx(1)
    up = -np.mean([view.camera.world_to_camera[1, :3] for view in world.views], axis=0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(move.inverse().points(world.points), scene.points, atol=1e-5)
    np.testing.assert_allclose(move.inverse().points(world.centers), scene.centers, atol=1e-9)


@pytest.mark.parametrize("up", [(0, 0, -1), (1, 0, 0), (0.3, -0.5, -0.8), (0, -1, 0)])
def test_any_way_up_becomes_z(up, tmp_path):
    side = np.cross(up, [0.1, 0.2, 0.97])
    places = [(3 + 0.5 * i) * side / np.linalg.norm(side) for i in range(4)]
    cameras = [replace(camera(i), world_to_camera=looking_at(p, np.zeros(3), up)) for i, p in enumerate(places)]
    world, _ = normalized(read_scene(write_scene(tmp_path, cameras)))
    for view in world.views:
        np.testing.assert_allclose(-view.camera.world_to_camera[1, :3], [0, 0, 1], atol=1e-6)


def test_cameras_at_one_place_give_no_size(tmp_path):
    with pytest.raises(DatasetError, match="all 4 cameras stand at one place"):
        normalized(read_scene(write_scene(tmp_path, [camera(i) for i in range(4)])))


@pytest.mark.parametrize(("n", "every", "held_out"), [(20, 8, [0, 8, 16]), (8, 8, [0]), (5, 2, [0, 2, 4]), (5, 0, [])])
def test_every_nth_by_name_is_held_out(tmp_path, n, every, held_out):
    views = read_scene(write_scene(tmp_path, ring(n))).views
    train, test = split(views[::-1], every)
    assert [int(view.camera.name[:3]) for view in test] == held_out
    assert [int(view.camera.name[:3]) for view in train] == [i for i in range(n) if i not in held_out]


def test_holding_out_all_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="test_every=1 holds out all 5 images"):
        split(read_scene(write_scene(tmp_path, ring(5))).views, 1)


@pytest.mark.parametrize(("max_side", "size"), [(1000, (W, H)), (64, (W, H)), (32, (32, 24)), (20, (20, 15))])
def test_pictures_and_cameras_shrink_together(tmp_path, max_side, size):
    loaded = load_image(read_scene(write_scene(tmp_path, ring())).views[0], max_side)
    assert loaded.rgb.shape == (size[1], size[0], 3)
    assert loaded.rgb.dtype == np.uint8
    assert (loaded.camera.width, loaded.camera.height) == size
    assert loaded.camera.fx == pytest.approx(50 * size[0] / W)
    assert loaded.mask is None


@pytest.mark.parametrize("max_side", [64, 32])
def test_white_counts_in_a_mask(tmp_path, max_side):
    loaded = load_image(read_scene(write_scene(tmp_path, ring(), masks=["000.jpg"])).views[0], max_side)
    assert loaded.mask.shape == loaded.rgb.shape[:2]
    assert loaded.mask.dtype == bool
    half = loaded.mask.shape[1] // 2
    assert loaded.mask[:, half:].all()
    assert not loaded.mask[:, :half].any()


def test_a_picture_of_another_size_than_its_camera_is_refused(tmp_path):
    scene = read_scene(write_scene(tmp_path, ring()))
    write_jpeg(scene.views[0].image, np.zeros((H, W + 1, 3), np.uint8), 95)
    with pytest.raises(DatasetError, match="000.jpg has 65x48 pixels, its camera 64x48"):
        load_image(scene.views[0], 64)
