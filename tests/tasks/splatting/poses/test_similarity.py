import numpy as np
import pytest

from tasks.splatting.poses.colmap_model import matrix_of
from tasks.splatting.poses.similarity import Similarity, align
from tasks.splatting.render.cameras import Camera


def some_move(seed):
    rng = np.random.default_rng(seed)
    return Similarity(rng.uniform(0.1, 9), matrix_of(rng.normal(size=4), (0, 0, 0))[:3, :3], rng.normal(size=3))


@pytest.mark.parametrize("seed", range(5))
def test_align_finds_the_move_that_was_made(seed):
    points = np.random.default_rng(seed).normal(size=(12, 3))
    move = some_move(seed)
    found = align(points, move.points(points))
    assert found.similarity.scale == pytest.approx(move.scale, rel=1e-9)
    np.testing.assert_allclose(found.similarity.rotation, move.rotation, atol=1e-9)
    np.testing.assert_allclose(found.similarity.translation, move.translation, atol=1e-9)
    assert found.relative_error < 1e-12


def test_the_error_is_the_root_mean_square_and_its_share_of_the_largest_distance():
    square = np.array([[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0.0]])
    lifted = square + np.array([[0, 0, 1], [0, 0, -1], [0, 0, 1], [0, 0, -1.0]])
    found = align(square, lifted)
    assert found.rms_error == pytest.approx(1.0, rel=1e-6)
    assert found.relative_error == pytest.approx(1 / np.sqrt(200), rel=1e-6)


def test_align_never_mirrors():
    points = np.random.default_rng(1).normal(size=(8, 3))
    found = align(points, points * [1, 1, -1])
    assert np.linalg.det(found.similarity.rotation) == pytest.approx(1)
    assert found.relative_error > 0.01


@pytest.mark.parametrize(
    ("estimated", "true"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3))),
        (np.zeros((4, 3)), np.zeros((5, 3))),
        (np.outer(range(5), [1, 2, 3.0]), np.outer(range(5), [1, 0, 0.0])),
        (np.ones((4, 3)), np.ones((4, 3))),
    ],
)
def test_align_refuses_what_fixes_no_turn(estimated, true):
    with pytest.raises(ValueError, match="need"):
        align(estimated, true)


@pytest.mark.parametrize("seed", range(5))
def test_a_moved_camera_sees_moved_points_at_the_same_pixels(seed):
    rng = np.random.default_rng(seed)
    move = some_move(seed)
    camera = Camera("a", 64, 48, 50, 50, 32, 24, matrix_of(rng.normal(size=4), rng.normal(size=3)))
    points = rng.normal(size=(20, 3))

    def pixels(camera, points):
        local = points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
        return local[:, :2] / local[:, 2:], local[:, 2]

    before, depths = pixels(camera, points)
    after, moved_depths = pixels(move.camera(camera), move.points(points))
    np.testing.assert_allclose(after, before, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(moved_depths, depths * move.scale, rtol=1e-7)
    np.testing.assert_allclose(move.camera(camera).center, move.points(camera.center[None])[0], atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_inverse_leads_back(seed):
    points = np.random.default_rng(seed).normal(size=(5, 3))
    move = some_move(seed)
    np.testing.assert_allclose(move.inverse().points(move.points(points)), points, atol=1e-9)
