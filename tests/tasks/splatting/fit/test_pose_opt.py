"""Corrections of cameras: none at the start, always rigid, and a camera that was moved finds back."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from tasks.splatting.fit.pose_opt import PoseCorrections
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tests.tasks.splatting.fit_scene import arc, true_gaussians

CPU = torch.device("cpu")


def test_cameras_stand_where_they_were_at_the_start():
    cameras = arc(3)
    corrections = PoseCorrections(cameras, 1e-3, 0.0, CPU)
    for index, camera in enumerate(cameras):
        expected = torch.from_numpy(camera.world_to_camera).float()
        torch.testing.assert_close(corrections.pose(index).detach(), expected)
    for before, after in zip(cameras, corrections.corrected(cameras), strict=True):
        np.testing.assert_allclose(after.world_to_camera, before.world_to_camera, atol=1e-12)


def test_corrected_cameras_are_rigid_whatever_the_numbers_are():
    corrections = PoseCorrections(arc(4), 1e-3, 0.0, CPU)
    with torch.no_grad():
        corrections.values.copy_(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)))
    for camera in corrections.corrected(arc(4)):
        rotation = camera.world_to_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        np.testing.assert_array_equal(camera.world_to_camera[3], [0, 0, 0, 1])


def test_a_camera_that_was_moved_finds_back():
    true, draw, splat = arc(3)[1], CpuRasterizer(num_threads=1), true_gaussians()
    moved = true.world_to_camera.copy()
    moved[:3, 3] += [0.03, -0.02, 0.04]
    turn = 0.01
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    moved = turned @ moved
    wrong = dataclasses.replace(true, world_to_camera=moved)
    taken = draw(splat, true, sh_degree=0).colors.detach()
    corrections = PoseCorrections([wrong], 5e-3, 0.0, CPU)
    errors: list[float] = []
    for number in range(200):
        drawn = draw(splat, wrong, sh_degree=0, pose=corrections.pose(0)).colors
        error = (drawn - taken).square().mean()
        error.backward()
        errors.append(float(error.detach()))
        corrections.step(number / 200)
    found = corrections.corrected([wrong])[0].world_to_camera
    before, after = (np.abs(matrix - true.world_to_camera).max() for matrix in (moved, found))
    assert before > 0.03
    assert after < 0.25 * before  # a turn and a shift look nearly the same here; what is drawn does not tell them apart
    assert errors[-1] < 0.01 * errors[0]


def test_the_rate_falls_to_a_hundredth():
    corrections = PoseCorrections(arc(1), 1e-3, 0.0, CPU)
    moves = []
    for progress in (0.0, 1.0):
        before = corrections.values.detach().clone()
        corrections.values.sum().backward()
        corrections.step(progress)
        moves.append(float((corrections.values.detach() - before).abs().max()))
    assert moves[1] == pytest.approx(0.01 * moves[0], rel=1e-3)


def test_a_state_goes_on_with_the_same_bits():
    first, second = (PoseCorrections(arc(2), 1e-3, 1e-6, CPU) for _ in range(2))

    def step(corrections: PoseCorrections) -> None:
        corrections.pose(1).square().sum().backward()
        corrections.step(0.5)

    step(first)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(first)
    step(second)
    assert torch.equal(first.values, second.values)
    assert first.values[1].any()
