"""What pixels see face by face is what rays through their middles see."""

import numpy as np
import pytest
import trimesh

from tasks.recognition.meshes.distractors import make_distractor
from tasks.recognition.meshes.parts import mended
from tasks.recognition.params import RenderParams
from tasks.recognition.render.composition import Camera, Placed
from tasks.recognition.render.hits import Hits, pixel_rays
from tasks.recognition.render.raster import first_seen, is_quicker
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
    rows, found = placed.region(camera), []
    for given in (camera, None):
        hits = Hits(pixel_rays(camera))
        hits.add(0, placed, rows, given)
        hits.finish([placed], [rows], None)
        found.append(hits)
    return found[0], found[1], rows


@pytest.mark.parametrize("number", range(7))  # a shape of each family
def test_faces_are_where_rays_hit_them(number):
    shape, params = Solid(make_distractor(3, number)), RenderParams(view_size=160)
    for i, pose in enumerate(view_poses(6, np.random.default_rng(number))):
        placed, camera = place_view(shape, pose, params, np.random.default_rng([number, i]))
        drawn, traced, rows = both(placed, camera)
        assert is_quicker(placed, len(rows))
        seen = (drawn.owner == 0) & (traced.owner == 0)
        assert np.mean(drawn.owner[rows] == traced.owner[rows]) > 0.9995  # middles on an outline, to the last bit
        assert np.mean(drawn.face[seen] == traced.face[seen]) > 0.995
        assert np.quantile(np.abs(drawn.t[seen] / traced.t[seen] - 1), 0.995) < 2e-5
        same = seen & (drawn.face == traced.face)
        assert np.quantile(np.abs(drawn.u[same] - traced.u[same]), 0.99) < 2e-3
        assert np.mean(np.sum(drawn.normals[seen] * traced.normals[seen], axis=1) > 0.999) > 0.995


def test_no_pixel_falls_between_two_faces():
    plane = solid(grid(16))
    for angle in np.radians([0, 13, 45, 90, 200]):
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], np.float32)
        placed = Placed(plane, turn, np.array([0, 0, 2], np.float32), 3.0, np.zeros(9, np.float32), EYE[0])
        camera = Camera(60.0, 32.0, 32.0, 64)  # the plane reaches beyond the image
        face, _, _, t = first_seen(placed, camera, np.arange(64 * 64, dtype=np.uint32))
        middle = np.zeros((64, 64), bool)
        middle[12:52, 12:52] = True
        assert np.all(face.reshape(64, 64)[middle] >= 0)
        assert t.reshape(64, 64)[middle] == pytest.approx(2.0, abs=1e-4)


def test_rays_are_taken_where_a_solid_has_many_faces_or_reaches_the_camera():
    ball = solid(trimesh.creation.icosphere(subdivisions=3))
    away, here = (
        Placed(ball, EYE, np.array([0, 0, z], np.float32), 1.0, np.zeros(9, np.float32), EYE[0]) for z in (3, 0.4)
    )
    assert is_quicker(away, 20_000)
    assert not is_quicker(away, 1000)
    assert not is_quicker(here, 20_000)
