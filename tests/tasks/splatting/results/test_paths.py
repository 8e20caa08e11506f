"""A video's camera goes where a person would carry it."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.splatting.results.focus import focus_of, up_of
from tasks.splatting.results.paths import camera_path, sized, turntable
from tests.tasks.splatting.export_scene import looking, ring

ORIGIN = np.zeros(3)


def centers(cameras):
    return np.stack([camera.center for camera in cameras])


def shown_at(camera, point):
    """Return where a point is in the image, pixels, and how far ahead."""
    x, y, z = camera.world_to_camera[:3, :3] @ point + camera.world_to_camera[:3, 3]
    return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy, z


def rigid(camera):
    rotation = camera.world_to_camera[:3, :3]
    return np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9) and np.linalg.det(rotation) > 0


def test_cameras_on_a_circle_look_at_its_middle_and_agree_on_up():
    assert np.allclose(focus_of(ring(7)), ORIGIN, atol=1e-9)
    assert np.allclose(up_of(ring(7)), [0, -1, 0], atol=1e-9)


def test_cameras_side_by_side_look_at_what_is_ahead_of_them():
    row = [looking(np.array([x, 0.0, 0.0]), np.array([x, 0.0, 5.0])) for x in (-2.0, 0.0, 2.0)]
    assert np.allclose(focus_of(row), [0, 0, 2])


def test_cameras_that_look_outwards_have_no_focus_behind_them():
    outwards = [looking(camera.center, 2 * camera.center) for camera in ring(6)[:3]]
    focus = focus_of(outwards)
    assert np.mean([shown_at(camera, focus)[2] for camera in outwards]) > 0


def test_one_camera_is_enough():
    one = ring(1)
    assert shown_at(one[0], focus_of(one))[2] > 0
    assert len(turntable(one, 5, 64)) == 5
    assert np.allclose(centers(camera_path(one, 5, 64)), one[0].center)


def test_the_turntable_keeps_the_mean_height_and_distance_and_looks_at_the_middle():
    cameras = ring(5, radius=2.0, y=-0.5) + ring(5, radius=4.0, y=-1.5)
    found = turntable(cameras, 36, 640)
    places = centers(found)
    assert np.allclose(places[:, 1], -1.0, atol=0.05)
    assert np.allclose(np.hypot(places[:, 0], places[:, 2]), 3.0, atol=0.05)
    for camera in found:
        x, y, ahead = shown_at(camera, focus_of(cameras))
        assert (x, y) == (pytest.approx(camera.cx), pytest.approx(camera.cy))
        assert ahead > 0
        assert rigid(camera)
        assert camera.world_to_camera[1, :3] @ [0, 1, 0] > 0.5  # its down is the scene's


def test_the_turntable_goes_round_once_in_even_steps_from_the_first_camera_on():
    cameras = ring(8)
    places = centers(turntable(cameras, 24, 640))
    assert np.allclose(places[0], cameras[0].center, atol=1e-6)
    steps = np.linalg.norm(np.diff(np.concatenate([places, places[:1]]), axis=0), axis=1)
    assert np.allclose(steps, steps[0])


def test_the_turntable_stays_on_the_side_that_was_seen():
    cameras = ring(36)[:9]  # 80 degrees
    places = centers(turntable(cameras, 60, 640))
    angles = np.degrees(np.arctan2(places[:, 0], -places[:, 2]))
    assert angles.min() > -1
    assert angles.max() < 81
    assert angles.max() - angles.min() > 75
    assert np.allclose(places[0], cameras[0].center, atol=0.15)  # the mean up leans a little
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.5


def test_cameras_straight_above_make_a_turntable():
    above = [looking(np.array([0.0, -3.0, 0.0]), ORIGIN, (0, 0, 1))]
    assert all(rigid(camera) for camera in turntable(above, 8, 64))


def test_the_path_goes_through_every_camera_and_turns_as_they_do():
    cameras = ring(20)[:7]
    found = camera_path(cameras, 301, 640, closed=False)
    assert np.allclose(found[0].center, cameras[0].center)
    assert np.allclose(found[-1].center, cameras[-1].center)
    for camera in cameras:
        nearest = found[int(np.argmin(np.linalg.norm(centers(found) - camera.center, axis=1)))]
        assert np.linalg.norm(nearest.center - camera.center) < 0.01
        turn = nearest.world_to_camera[:3, :3] @ camera.world_to_camera[:3, :3].T
        assert np.trace(turn) > 2.9998
    assert all(rigid(camera) for camera in found)


def test_the_path_is_even_and_has_no_corners():
    places = centers(camera_path(ring(12)[:8], 200, 640, closed=False))
    steps = np.diff(places, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    assert lengths.max() < 1.3 * lengths.min()
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).max() < 0.15 * lengths.mean()


def test_a_circle_is_closed_and_an_arc_is_not():
    around = centers(camera_path(ring(12), 120, 640))
    gap = np.linalg.norm(around[-1] - around[0])
    assert gap == pytest.approx(np.linalg.norm(around[1] - around[0]), rel=0.2)
    arc = ring(12)[:6]
    assert np.allclose(camera_path(arc, 50, 640)[-1].center, arc[-1].center)


def test_rotations_take_the_short_way_whatever_the_signs_of_their_quaternions():
    cameras = ring(16)
    rotations = [camera.world_to_camera[:3, :3] for camera in camera_path(cameras, 320, 640)]
    turns = [
        np.degrees(np.arccos(min(1, (np.trace(a @ b.T) - 1) / 2)))
        for a, b in zip(rotations, rotations[1:], strict=False)
    ]
    assert max(turns) < 3


def test_many_shaky_cameras_make_a_calm_path():
    rng = np.random.default_rng(0)
    shaky = [looking(camera.center + rng.normal(0, 0.02, 3), ORIGIN) for camera in ring(300)]
    places = centers(camera_path(shaky, 120, 640))
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps.max() < 2 * steps.min()


def test_cameras_at_one_place_still_make_a_path():
    here = [looking(ORIGIN, np.array([np.sin(a), 0, np.cos(a)])) for a in (0.0, 0.3, 0.6)]
    found = camera_path(here, 9, 640, closed=False)
    assert np.allclose(centers(found), 0)
    assert np.allclose(found[-1].world_to_camera, here[-1].world_to_camera)
    assert np.allclose(found[4].world_to_camera, here[1].world_to_camera)


@pytest.mark.parametrize(
    ("size", "expected"), [((1920, 1080), (640, 360)), ((333, 777), (274, 640)), ((95, 63), (96, 64))]
)
def test_sizes_are_even_and_bounded(size, expected):
    camera = replace(ring(1)[0], width=size[0], height=size[1])
    found = sized(camera, 640)
    assert abs(found.width - expected[0]) <= 2
    assert abs(found.height - expected[1]) <= 2
    assert found.width % 2 == found.height % 2 == 0
    assert max(found.width, found.height) <= 640
    assert found.cx / found.width == pytest.approx(camera.cx / camera.width)


@pytest.mark.parametrize("way", [turntable, camera_path])
def test_without_a_camera_there_is_no_way(way):
    with pytest.raises(DatasetError, match="found no camera"):
        way([], 5, 64)
