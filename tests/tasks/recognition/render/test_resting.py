"""Solids lie as they would stay, and apart from one another."""

import numpy as np
import pytest
import trimesh

from tasks.recognition.meshes.parts import mended
from tasks.recognition.render.resting import Footprint, onto_plane, resting_poses, scatter
from tasks.recognition.render.solids import Solid

SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def solid(mesh: trimesh.Trimesh) -> Solid:
    return Solid(mended("a", "a", "0", np.array(mesh.vertices), np.array(mesh.faces)))


def test_a_box_lies_on_any_of_its_sides_mostly_on_the_largest():
    poses = resting_poses(solid(trimesh.creation.box((4, 4, 1))))
    assert len(poses.turns) == 6
    flat = sum(weight for turn, weight in zip(poses.turns, poses.weights, strict=True) if abs(turn[2, 2]) > 0.99)
    side = np.arctan(4 / (0.5 * 8.25**0.5))  # a quarter of the solid angle of a large side
    assert flat == pytest.approx(2 * 4 * side / (4 * np.pi), rel=1e-4)
    assert poses.weights.sum() == pytest.approx(1)


def test_a_solid_does_not_stand_where_it_would_tip():
    leaning = trimesh.creation.box((1, 1, 6))
    leaning.apply_transform([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # sheared: falls over its foot
    turns = resting_poses(solid(leaning)).turns
    assert turns
    assert not [turn for turn in turns if abs((turn @ [0, 0, 1])[2]) > 0.99]


def test_every_pose_is_like_one_of_trimesh():
    mesh = trimesh.creation.cone(1, 3, sections=8)
    theirs = trimesh.poses.compute_stable_poses(mesh, sigma=0, n_samples=1)[0]
    poses = resting_poses(solid(mesh))
    ups = [turn[2] for turn in poses.turns]
    assert len(ups) == len(theirs)
    assert all(max(np.dot(up, matrix[2, :3]) for matrix in theirs) > 0.999 for up in ups)


def test_a_sheet_lies_on_either_side():
    sheet = mended("a", "a", "0", np.array([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0], [1, 2, 0], [3, 2, 0]]),
                   np.array([[0, 1, 2], [0, 2, 3], [3, 2, 4], [2, 5, 4]]))  # fmt: skip
    assert [abs(turn[2, 2]) for turn in resting_poses(Solid(sheet)).turns] == pytest.approx([1, 1])


def test_onto_plane_turns_down():
    for normal in np.eye(3):
        turn = onto_plane(normal)
        assert turn @ normal == pytest.approx([0, 0, -1])
        assert turn @ turn.T == pytest.approx(np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1)


@pytest.mark.parametrize(("x", "overlaps"), [(0.9, True), (1.005, True), (1.02, False)])
def test_footprints_keep_a_gap(x, overlaps):
    one = Footprint.around(SQUARE)
    assert one.overlaps(one, np.zeros(2), np.array([x, 0.3])) == overlaps


def test_what_is_scattered_does_not_overlap():
    footprints = [Footprint.around(SQUARE * size) for size in (1, 2, 0.5, 1, 1, 3)]
    places = scatter(footprints, 0.5, np.random.default_rng(0))
    found = [(foot, place) for foot, place in zip(footprints, places, strict=True) if place is not None]
    assert len(found) >= 4
    for i, (one, here) in enumerate(found):
        assert not any(one.overlaps(other, here, there) for other, there in found[:i])


def test_a_scanned_ball_has_no_more_poses_than_its_outline_has_faces():
    ball = solid(trimesh.creation.icosphere(subdivisions=6))
    assert len(ball.faces) == 81_920
    assert len(resting_poses(ball).turns) <= 2 * 512
