"""Views of one part from all around, cut as a box around it would be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.recognition.params import RenderParams
from tasks.recognition.render.composition import Camera, Placed
from tasks.recognition.render.drawing import draw
from tasks.recognition.render.materials import random_material
from tasks.recognition.render.sensor import photograph
from tasks.recognition.render.solids import Solid, sphere_directions
from tasks.recognition.render.studio import Studio
from tasks.recognition.render.surroundings import (
    put_behind,
    random_background,
    random_ground,
    random_light,
    random_rotation,
)

_ON_GROUND = 0.5  # share of views with a ground below the part; the others have a background far behind
_MARGIN = (0.06, 0.3)  # of the longer side of the box around the part, left and right together
_SHIFT = 0.05  # of the image, by which a box may lie beside its part


@dataclass(frozen=True, slots=True)
class ViewPose:
    """Where the camera is."""

    turn: NDArray[np.float64]  # (3, 3), from the part's frame to the camera's
    distance: float  # to the middle of the part, diameters
    azimuth: float  # of the camera seen from the part, degrees, from its x axis towards y
    elevation: float  # degrees, from its plane of x and y towards z


def view_poses(n: int, rng: np.random.Generator) -> list[ViewPose]:
    """Return n poses spread evenly over the sphere, turned as one at random, with a random roll each."""
    poses = []
    for direction in sphere_directions(n) @ random_rotation(rng):
        azimuth = float(np.degrees(np.arctan2(direction[1], direction[0])))
        elevation = float(np.degrees(np.arcsin(np.clip(direction[2], -1, 1))))
        turn = facing(direction, rng.uniform(0, 2 * np.pi))
        poses.append(ViewPose(turn, float(rng.uniform(1.6, 5)), azimuth, elevation))
    return poses


def facing(direction: NDArray[np.float64], roll: float) -> NDArray[np.float64]:
    """Return the rotation (3, 3) into the frame of a camera in this direction (3,) that looks back."""
    ahead = -direction / np.linalg.norm(direction)
    right = np.cross(ahead, [0.0, 0.0, 1.0] if abs(ahead[2]) < 0.999 else [1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    return np.stack([np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right, ahead])


def render_view(solid: Solid, pose: ViewPose, studio: Studio, params: RenderParams, rng: np.random.Generator) -> bytes:
    """Return the JPEG file of a view."""
    placed, camera = place_view(solid, pose, params, rng)
    up = _up(rng)
    light = random_light(studio, up, rng)
    if rng.random() < _ON_GROUND:
        corners = placed.outline
        ground = random_ground(studio, up, corners[np.argmin(corners @ up)].astype(np.float64), rng)
        return photograph(draw(camera, [placed], light, ground, rng).light, studio.noise, params, rng)
    drawing = draw(camera, [placed], light, None, rng)
    put_behind(random_background(studio, params.view_size, rng), drawing.cover, drawing.light)
    return photograph(drawing.light, studio.noise, params, rng)


def place_view(solid: Solid, pose: ViewPose, params: RenderParams, rng: np.random.Generator) -> tuple[Placed, Camera]:
    """Return a solid of some material before the camera, and the camera."""
    axis = rng.standard_normal(3)
    placed = Placed(
        solid,
        pose.turn.astype(np.float32),
        np.array([0, 0, pose.distance], np.float32),
        1.0,
        random_material(rng, params.materials),
        (axis / np.linalg.norm(axis)).astype(np.float32),
    )
    return placed, _framing(placed, params.view_size, rng)


def _up(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the normal (3,) of a table as a camera above it sees it, which may be held in any way."""
    tilt, way = rng.uniform(0, np.radians(62)), rng.uniform(0, 2 * np.pi)
    return np.array([np.sin(tilt) * np.cos(way), np.sin(tilt) * np.sin(way), -np.cos(tilt)])


def _framing(placed: Placed, size: int, rng: np.random.Generator) -> Camera:
    """Return the camera whose image is a square around the part, as a detector's box would be cut."""
    low, high = placed.sight.min(axis=0), placed.sight.max(axis=0)
    focal = size / (float((high - low).max()) * (1 + rng.uniform(*_MARGIN)))
    middle = size * (0.5 + rng.uniform(-_SHIFT, _SHIFT, 2)) - focal * (low + high) / 2
    return Camera(focal, float(middle[0]), float(middle[1]), size)
