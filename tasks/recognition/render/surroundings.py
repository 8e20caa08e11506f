"""Light, ground and background of an image, by its seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.geometry.rotations import cross
from tasks.recognition.render.composition import Ground, Light
from tasks.recognition.render.materials import ground_material
from tasks.recognition.render.shading import surface_color
from tasks.recognition.render.studio import N_ROOMS, Studio

Floats = NDArray[np.float32]
F = np.float32
U = np.uint64
_X, _Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a rotation (3, 3), all equally likely.

    Source: Stewart 1980, "The Efficient Generation of Random Orthogonal Matrices": QR of normal numbers.
    """
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def random_light(studio: Studio, up: NDArray[np.float64], rng: np.random.Generator) -> Light:
    """Return a room turned around the vertical, and a lamp above.

    Args:
        up: (3,) unit, camera frame.
    """
    number = int(rng.integers(N_ROOMS))
    side = cross(up, _Z if abs(up[2]) < 0.9 else _X)
    side /= np.linalg.norm(side)
    other, turn = cross(up, side), rng.uniform(0, 2 * np.pi)
    x, y = np.cos(turn) * side + np.sin(turn) * other, np.cos(turn) * other - np.sin(turn) * side
    height, way = rng.uniform(0.25, 0.98), rng.uniform(0, 2 * np.pi)
    lamp = height * up + np.sqrt(1 - height**2) * (np.cos(way) * x + np.sin(way) * y)
    color = rng.uniform(0, 2.2) * np.clip(1 + 0.12 * rng.standard_normal(3), 0.6, 1.4)
    return Light(
        studio.reflected[number],
        studio.diffuse[number],
        np.stack([x, y, up]).astype(np.float32),
        lamp.astype(np.float32),
        color.astype(np.float32),
        float(rng.uniform(0.02, 0.3)),
    )


def random_texture(studio: Studio, rng: np.random.Generator) -> Floats:
    """Return a surface, of the user's photographs in half of the cases where there are some."""
    pool = studio.photos if studio.photos and rng.random() < 0.5 else studio.textures
    return pool[int(rng.integers(len(pool)))]


def random_ground(
    studio: Studio, normal: NDArray[np.float64], point: NDArray[np.float64], rng: np.random.Generator
) -> Ground:
    """Return a plane with a surface on it.

    Args:
        normal: (3,) unit, towards the camera; point: (3,) on the plane; camera frame.
    """
    along = cross(normal, rng.standard_normal(3))
    along /= np.linalg.norm(along)
    shade = np.float32(rng.uniform(0.4, 1.2))
    texture = random_texture(studio, rng) * shade
    return Ground(
        normal.astype(np.float32),
        along.astype(np.float32),
        point.astype(np.float32),
        texture,
        float(rng.uniform(1.5, 5)),
        ground_material(rng),
    )


@dataclass(frozen=True, slots=True)
class Background:
    """What is far behind a part: the light of a pixel is that of the texture there, times down and across."""

    texture: Floats  # (T, T, 3), T a power of two, that repeats
    axes: Floats  # (2, 4): its column and row = axes[:, :2] @ (column, row of the image) + axes[:, 3]
    down: Floats  # (S,) of each row of the image
    across: Floats  # (S,) of each column


def random_background(studio: Studio, size: int, rng: np.random.Generator) -> Background:
    """Return what is behind a part on an image of `size` pixels a side: plain, or a surface out of focus."""
    brightness = np.float32(rng.uniform(0.15, 1.5))
    slope = rng.normal(0, 0.25, 2)
    at = np.linspace(-1, 1, size)
    down, across = np.exp(slope[0] * at).astype(np.float32) * brightness, np.exp(slope[1] * at).astype(np.float32)
    axes = np.zeros((2, 4), np.float32)
    if rng.random() < 0.35:
        grey = rng.choice([0.02, 0.2, 0.5, 0.8]) * np.clip(1 + 0.08 * rng.standard_normal(3), 0.7, 1.3)
        return Background(grey.astype(np.float32).reshape(1, 1, 3), axes, down, across)
    texture = random_texture(studio, rng)
    zoom, turn = rng.uniform(0.6, 3) * 256 / size / 2, rng.uniform(0, 2 * np.pi)
    axes[:, 3] = rng.uniform(0, texture.shape[0], 2)
    axes[:, :2] = zoom * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return Background(texture, axes, down, across)


def put_behind(background: Background, cover: Floats, light: Floats) -> None:
    """Add to the light (S, S, 3) of an image what is seen past its parts, which cover a share (S, S) of each pixel."""
    _put_behind(background.texture, background.axes, background.down, background.across, cover, light)


@fused
def _put_behind(texture: Floats, axes: Floats, down: Floats, across: Floats, cover: Floats, light: Floats) -> None:
    for row in range(U(len(down))):
        for column in range(U(len(across))):
            open_ = (F(1) - cover[row, column]) * down[row] * across[column]
            if open_ > F(0):
                red, green, blue = surface_color(texture, axes, F(column), F(row), F(0))
                light[row, column, 0] += open_ * red
                light[row, column, 1] += open_ * green
                light[row, column, 2] += open_ * blue
