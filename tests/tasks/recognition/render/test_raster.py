"""What pixels see face by face is what rays through their middles see."""

import numpy as np
import pytest
import trimesh

from tasks.recognition.meshes.distractors import make_distractor
from tasks.recognition.meshes.parts import mended
from tasks.recognition.params import RenderParams
from tasks.recognition.render.composition import Camera, Placed
from tasks.recognition.render.hits import Hits, pixel_rays
from tasks.recognition.render.raster import draw_faces, is_quicker
from tasks.recognition.render.solids import Solid
from tasks.recognition.render.views import place_view, view_poses

EYE = np.eye(3, dtype=np.float32)


def grid(n: int) -> trimesh.Trimesh:
    """Return a plane of 2 n n faces that share their edges, 1 by 1, in z = 0."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, n + 1), np.linspace(-0.5, 0.5, n + 1))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    corner = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    a, b, c, d = corner, corner + 1, corner + n + 1, corner + n + 2
    return trimesh.Trimesh(points, np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)]), process=False)


def solid(mesh: trimesh.Trimesh) -> Solid:
    return Solid(mended("a", "a", "0", np.array(mesh.vertices), np.array(mesh.faces)))


def both(placed: Placed, camera: Camera) -> tuple[Hits, Hits, np.ndarray]:
    """Return what is hit by faces, and by rays, of the pixels that a solid may touch."""
    rows, drawn, traced = placed.region(camera), Hits(pixel_rays(camera)), Hits(pixel_rays(camera))
    n = draw_faces(0, placed, camera, placed.box(camera), drawn.seen), traced.trace(0, placed, rows)
    assert n == ((drawn.owner == 0).sum(), (traced.owner == 0).sum())
    return drawn, traced, rows


@pytest.mark.parametrize("number", range(7))  # a shape of each family
def test_faces_are_where_rays_hit_them(number):
    shape, params = Solid(make_distractor(3, number)), RenderParams(view_size=160)
    for i, pose in enumerate(view_poses(6, np.random.default_rng(number))):
        placed, camera = place_view(shape, pose, params, np.random.default_rng([number, i]))
        drawn, traced, rows = both(placed, camera)
        assert is_quicker(placed, placed.box(camera))
        seen = (drawn.owner == 0) & (traced.owner == 0)
        assert np.mean(drawn.owner[rows] == traced.owner[rows]) > 0.9995  # middles on an outline, to the last bit
        assert np.mean(drawn.face[seen] == traced.face[seen]) > 0.995
        assert np.quantile(np.abs(drawn.t[seen] / traced.t[seen] - 1), 0.995) < 2e-5
        same = seen & (drawn.face == traced.face)
        assert np.quantile(np.abs(drawn.points[same] - traced.points[same]), 0.99) < 1e-4
        assert np.mean(np.sum(drawn.normals[seen] * traced.normals[seen], axis=1) > 0.999) > 0.995


def test_no_pixel_falls_between_two_faces():
    plane = solid(grid(16))
    for angle in np.radians([0, 13, 45, 90, 200]):
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], np.float32)
        placed = Placed(plane, turn, np.array([0, 0, 2], np.float32), 3.0, np.zeros(9, np.float32), EYE[0])
        camera = Camera(60.0, 32.0, 32.0, 64)  # the plane reaches beyond the image
        hits = Hits(pixel_rays(camera))
        draw_faces(0, placed, camera, placed.box(camera), hits.seen)
        middle = np.zeros((64, 64), bool)
        middle[12:52, 12:52] = True
        assert np.all(hits.face.reshape(64, 64)[middle] >= 0)
        assert hits.t.reshape(64, 64)[middle] == pytest.approx(2.0, abs=1e-4)


def test_rays_are_taken_where_a_solid_has_many_faces_or_reaches_the_camera():
    ball = solid(trimesh.creation.icosphere(subdivisions=3))
    away, here = (
        Placed(ball, EYE, np.array([0, 0, z], np.float32), 1.0, np.zeros(9, np.float32), EYE[0]) for z in (3, 0.4)
    )
    assert is_quicker(away, (0, 0, 100, 200))
    assert not is_quicker(away, (0, 0, 10, 100))
    assert not is_quicker(here, (0, 0, 100, 200))


def test_an_open_solid_is_seen_from_behind_and_a_closed_one_only_from_outside():
    box = trimesh.creation.box((1, 1, 1))
    open_ = trimesh.Trimesh(box.vertices, box.faces[box.face_normals[:, 2] > -0.5], process=False)
    camera, away = Camera(60.0, 32.0, 32.0, 64), np.array([0, 0, 3], np.float32)
    for mesh, depth in ((box, 2.5), (open_, 3.5)):
        shape = solid(mesh)
        placed = Placed(shape, EYE, away, shape.diameter, np.zeros(9, np.float32), EYE[0])
        drawn, traced, _ = both(placed, camera)
        assert drawn.t[32 * 64 + 32] == pytest.approx(depth, rel=1e-3) == traced.t[32 * 64 + 32]


def test_a_face_is_outer_where_its_whole_solid_is_behind_it():
    floor = [(0, 0, 0), (2, 0, 0), (2, 1, 0), (1, 1, 0), (1, 2, 0), (0, 2, 0)]
    walls = [face for k in range(6) for face in ((k, (k + 1) % 6, k + 6), ((k + 1) % 6, (k + 1) % 6 + 6, k + 6))]
    caps = [(0, k, k + 1) for k in range(1, 5)]
    faces = [*walls, *caps, *((a + 6, b + 6, c + 6) for a, b, c in caps)]
    bracket = trimesh.Trimesh([*floor, *((x, y, 1) for x, y, _ in floor)], faces, process=False)
    shape = solid(bracket)
    assert np.flatnonzero(~shape.outer.any(axis=1)).tolist() == [4, 5, 6, 7]  # the two walls of the inner corner
    assert np.sum(shape.outer * shape.normals[:, 0], axis=1)[:4] == pytest.approx(1, abs=1e-5)
