"""A turned splat looks the same from a camera that is turned with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.geometry.rotations import quaternion_of, rotation_matrix
from tasks.splatting.results.rotate_splat import RIGHT_UP_BACK, turned, upright
from tests.tasks.splatting.export_scene import looking, rasterizer, ring, splat


def some_rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("rotation", [RIGHT_UP_BACK, some_rotation(1), some_rotation(2)])
def test_a_turned_splat_looks_the_same_from_a_turned_camera(rotation):
    gaussians, camera = splat(40, 3), ring(5)[1]
    back = np.eye(4)
    back[:3, :3] = rotation.T
    moved = replace(camera, world_to_camera=camera.world_to_camera @ back)
    before = rasterizer(gaussians, camera, sh_degree=3).colors
    after = rasterizer(turned(gaussians, rotation), moved, sh_degree=3).colors
    assert float((before - after).abs().max()) < 2e-5
    assert float((before - rasterizer(gaussians, moved, sh_degree=3).colors).abs().max()) > 0.1


@pytest.mark.parametrize("seed", range(20))
def test_a_quaternion_gives_its_matrix_back(seed):
    rotation = some_rotation(seed)
    assert np.allclose(rotation_matrix(quaternion_of(rotation)), rotation, atol=1e-12)
    assert quaternion_of(rotation)[0] >= 0


def test_half_turns_have_quaternions_too():
    assert np.allclose(np.abs(quaternion_of(RIGHT_UP_BACK)), [0, 1, 0, 0])


def test_turning_to_and_fro_changes_nothing():
    gaussians, rotation = splat(30, 3), some_rotation(3)
    again = turned(turned(gaussians, rotation), rotation.T)
    assert torch.allclose(again.shN, gaussians.shN, atol=1e-6)
    assert torch.allclose(again.means, gaussians.means, atol=1e-6)


def test_upright_turns_the_cameras_up_to_y_and_their_view_to_minus_z():
    rotation = some_rotation(4)
    cameras = [looking(np.array([0.3 * i, -1.0, -3.0]), np.zeros(3)) for i in (-1, 0, 1)]
    back = np.eye(4)
    back[:3, :3] = rotation.T
    cameras = [replace(camera, world_to_camera=camera.world_to_camera @ back) for camera in cameras]
    found = upright(cameras)
    assert np.allclose(found @ found.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(found) == pytest.approx(1)
    up = found @ -np.mean([camera.world_to_camera[1, :3] for camera in cameras], axis=0)
    ahead = found @ np.mean([camera.world_to_camera[2, :3] for camera in cameras], axis=0)
    assert up[1] == pytest.approx(np.linalg.norm(up))
    assert abs(ahead[0]) < 1e-12
    assert ahead[2] < 0


def test_without_cameras_the_world_is_taken_to_have_y_down():
    assert np.array_equal(upright([]), RIGHT_UP_BACK)


def test_cameras_all_around_still_give_a_rotation_with_their_up():
    found = upright(ring(4))
    assert np.allclose(found @ found.T, np.eye(3), atol=1e-12)
    assert np.allclose(found @ [0, -1, 0], [0, 1, 0], atol=1e-12)
