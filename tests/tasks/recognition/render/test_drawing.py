"""What is drawn is where geometry says, lit as physics says, and smooth at its edges."""

import numpy as np
import pytest
import trimesh

from tasks.recognition.meshes.distractors import make_distractor
from tasks.recognition.meshes.parts import mended
from tasks.recognition.render.composition import Camera, Ground, Light, Placed
from tasks.recognition.render.drawing import Drawing, draw
from tasks.recognition.render.materials import NONE
from tasks.recognition.render.solids import Solid
from tasks.recognition.render.studio import MAP_SIDE, ROUGHNESS

EYE = np.eye(3, dtype=np.float32)
WHITE = np.array([1, 1, 1, 0, 1, 0, NONE, 0, 1], np.float32)  # matt, and reflecting nothing
CAMERA = Camera(focal=200, cx=50, cy=50, size=100)


def solid(mesh: trimesh.Trimesh) -> Solid:
    return Solid(mended("a", "a", "0", np.array(mesh.vertices), np.array(mesh.faces)))


BALL = solid(trimesh.creation.icosphere(subdivisions=4))
BOX = solid(trimesh.creation.box((1, 1, 1)))


def light(sky: float = 1.0, lamp: float = 0.0, way: tuple[float, float, float] = (0, 0, -1)) -> Light:
    """Return an even sky, and a lamp in some direction."""
    even = np.full((len(ROUGHNESS), MAP_SIDE, MAP_SIDE, 3), sky, np.float32)
    return Light(even, even[0], EYE, np.array(way, np.float32), np.full(3, lamp, np.float32), 0.01)


def placed(of: Solid, x: float = 0, y: float = 0, z: float = 4, size: float = 1.0) -> Placed:
    return Placed(of, EYE, np.array([x, y, z], np.float32), size, WHITE, EYE[0])


def drawn(*objects: Placed, by: Light, ground: Ground | None = None) -> Drawing:
    return draw(CAMERA, objects, by, ground, np.random.default_rng(0))


def table(z: float) -> Ground:
    """Return a white plane that faces the camera."""
    toward = np.array([0, 0, -1], np.float32)
    return Ground(toward, EYE[0], -z * toward, np.full((4, 4, 3), 0.5, np.float32), 1.0, WHITE)


def test_a_ball_covers_what_its_projection_covers():
    drawing = drawn(placed(BALL), by=light())
    angle = np.arcsin(0.5 / 4)
    assert drawing.cover.sum() == pytest.approx(np.pi * (200 * np.tan(angle)) ** 2, rel=0.005)  # on the axis: a circle
    ys, xs = np.nonzero(drawing.owner == 0)
    assert (xs.mean(), ys.mean()) == (pytest.approx(49.5, abs=0.05), pytest.approx(49.5, abs=0.05))
    assert np.any((drawing.cover > 0.1) & (drawing.cover < 0.9))  # smooth at the edge


def test_a_white_matt_ball_under_an_even_sky_is_as_bright_as_the_sky():
    drawing = drawn(placed(BALL), by=light(sky=0.7))
    assert drawing.light[drawing.cover == 1] == pytest.approx(0.7, abs=0.01)


def test_a_lamp_lights_by_the_cosine():
    far = Camera(focal=40_000, cx=50, cy=50, size=100)
    drawing = draw(far, [placed(BALL, z=500)], light(sky=0, lamp=2.0), None, np.random.default_rng(0))
    ys, xs = np.nonzero(drawing.cover == 1)
    square = (((np.stack([xs, ys]) + 0.5 - 50) / 40_000 * 500) ** 2).sum(axis=0) / 0.25  # (r / R)^2
    cosine = np.sqrt(np.maximum(1 - square, 0))
    middle = cosine > 0.5
    assert drawing.light[ys, xs, 0][middle] == pytest.approx(2 * cosine[middle], abs=0.06)


def test_the_nearer_solid_hides_the_other():
    near, far = placed(BALL, z=3), placed(BALL, z=6, x=0.3)
    for objects, hidden in (((near, far), 1), ((far, near), 0)):
        drawing = drawn(*objects, by=light())
        assert drawing.owner[50, 50] == 1 - hidden
        assert (drawing.owner == hidden).sum() < 0.5 * drawing.n_whole[hidden]
        alone = drawn(far, by=light())
        assert drawing.n_whole[hidden] == (alone.owner == 0).sum()


def test_a_solid_throws_a_shadow_where_the_lamp_says():
    lamp = (0.6, 0.0, -0.8)
    drawing = drawn(placed(BOX, z=4, size=0.6), by=light(sky=0, lamp=1, way=lamp), ground=table(4.5))
    # From the ground up to the lamp: the shadow of the middle is 0.5 deeper, 0.375 to the left.
    column = 50 + 200 * -0.375 / 4.5
    assert drawing.light[50, int(column), 0] == pytest.approx(0, abs=0.02)
    assert drawing.light[50, int(100 - column), 0] == pytest.approx(0.5 * 0.8, abs=0.03)
    assert drawing.owner[5, 5] == -1


def test_the_sky_is_hidden_in_corners():
    drawing = drawn(placed(BOX, z=4, size=1.2), by=light(), ground=table(4.35))
    edge = 50 + 200 * 0.35 / 3.6  # of the upper face, which hides the foot of the box
    beside, away = drawing.light[50, int(edge) + 3, 0], drawing.light[50, 97, 0]
    assert beside < 0.85 * away
    assert away == pytest.approx(0.5, abs=0.05)


def test_rays_that_are_left_out_would_have_met_nothing():
    shape = Solid(make_distractor(3, 1))
    assert 0.2 < shape.outer.any(axis=1).mean() < 1  # faces with all of the shape behind them
    at = placed(shape)
    sun = light(sky=0.5, lamp=1.5, way=(0.5, -0.5, -(0.5**0.5)))
    few = drawn(at, by=sun, ground=table(4.5))
    shape.outer[:], shape.box[:] = 0, np.array([[-1], [1]])
    every = drawn(at, by=sun, ground=table(4.5))
    assert np.mean(np.abs(few.light - every.light) > 0.01) < 1e-3
