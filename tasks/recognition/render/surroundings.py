"""Light, ground and background of an image, by its seed."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.recognition.render.composition import Ground, Light
from tasks.recognition.render.materials import ground_material
from tasks.recognition.render.studio import N_ROOMS, Studio

Floats = NDArray[np.float32]


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
    side = np.cross(up, [0.0, 0.0, 1.0] if abs(up[2]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    other, turn = np.cross(up, side), rng.uniform(0, 2 * np.pi)
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
    along = np.cross(normal, rng.standard_normal(3))
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


def random_background(studio: Studio, size: int, rng: np.random.Generator) -> Floats:
    """Return linear light (size, size, 3) far behind a part: plain, or a surface out of focus."""
    brightness = np.float32(rng.uniform(0.15, 1.5))
    slope = rng.normal(0, 0.25, 2)
    at = np.linspace(-1, 1, size)
    gradient = np.exp(slope[0] * at[:, None] + slope[1] * at[None]).astype(np.float32)[..., None] * brightness
    if rng.random() < 0.35:
        grey = rng.choice([0.02, 0.2, 0.5, 0.8]) * np.clip(1 + 0.08 * rng.standard_normal(3), 0.7, 1.3)
        return gradient * grey.astype(np.float32)
    texture = random_texture(studio, rng)
    zoom, turn = rng.uniform(0.6, 3) * 256 / size / 2, rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(0, texture.shape[0], 2)
    warp = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / zoom
    image = cv2.warpAffine(
        texture,
        np.hstack([np.linalg.inv(warp), shift[:, None]]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )
    return image * gradient
