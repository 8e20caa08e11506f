"""What surrounds the parts: rooms that light them, surfaces they lie on, and the noise of a sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.images.files import find_images
from tasks.images.images import read_rgb

Floats = NDArray[np.float32]

MAP_SIDE = 48
"""Of a map of all directions: 5 degrees a texel, which no surface rougher than `ROUGHNESS[0]` can show."""
ROUGHNESS = np.array([0.15, 0.25, 0.35, 0.5, 0.7, 1.0], np.float32)
"""Of a surface, one map of what it reflects for each."""
TEXTURE_SIDE = 256
N_ROOMS, N_TEXTURES, MAX_PHOTOS = 24, 32, 128
NOISE_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Studio:
    """Made once for a data set; each image takes a room and a surface by its own seed."""

    reflected: Floats  # (N_ROOMS, len(ROUGHNESS), MAP_SIDE, MAP_SIDE, 3), radiance
    diffuse: Floats  # (N_ROOMS, MAP_SIDE, MAP_SIDE, 3), irradiance over pi
    textures: list[Floats]  # (TEXTURE_SIDE, TEXTURE_SIDE, 3) each, linear, 0 to 1, that can be laid side by side
    photos: list[Floats]  # of the user's folder, likewise, mirrored to be laid side by side
    noise: Floats  # (NOISE_SIDE, NOISE_SIDE), of mean 0 and deviation 1


def make_studio(seed: int, photos: Path | None = None) -> Studio:
    """Return rooms and surfaces by seed.

    Args:
        photos: a folder of images to lie under and behind parts; None: only what is made up.

    Raises:
        DatasetError: it cannot be read, or (ImageError) an image of it.
    """
    rng = np.random.default_rng([seed, 0x57])
    radiance = np.stack([_room(rng) for _ in range(N_ROOMS)])
    reflected, diffuse = _filtered(radiance)
    textures = [_texture(rng) for _ in range(N_TEXTURES)]
    noise = rng.standard_normal((NOISE_SIDE, NOISE_SIDE), np.float32)
    return Studio(reflected, diffuse, textures, _photos(photos, rng) if photos is not None else [], noise)


def octahedron() -> Floats:
    """Return the unit direction (MAP_SIDE, MAP_SIDE, 3) of each texel of a map.

    Source: Cigolle et al. 2014, "A Survey of Efficient Representations for Independent Unit Vectors", octahedral.
    """
    at = (np.arange(MAP_SIDE) + 0.5) / MAP_SIDE * 2 - 1
    x, y = np.meshgrid(at, at)
    z = 1 - np.abs(x) - np.abs(y)
    folded = np.maximum(-z, 0)
    x, y = x - np.sign(x) * folded, y - np.sign(y) * folded
    directions = np.stack([x, y, z], axis=-1)
    return (directions / np.linalg.norm(directions, axis=-1, keepdims=True)).astype(np.float32)


def _room(rng: np.random.Generator) -> Floats:
    """Return the radiance from each direction: floor, walls and sky, dim blobs, and a few lamps or windows; z is up."""
    directions = octahedron()
    up = directions[..., 2]
    floor, wall, ceiling = (_tint(rng, 0.12) * rng.uniform(*span) for span in ((0.1, 0.6), (0.15, 0.7), (0.3, 1.2)))
    rise = np.clip(up, 0, 1)[..., None] ** rng.uniform(0.4, 1.5)
    sink = np.clip(-up * rng.uniform(2, 8), 0, 1)[..., None]
    light = (wall * (1 - rise) + ceiling * rise) * (1 - sink) + floor * sink
    for _ in range(10):
        axis = _direction(rng)
        blob = np.exp(rng.uniform(2, 25) * (directions @ axis - 1))[..., None]
        light = light * (1 - blob * rng.uniform(0, 0.9)) + blob * _tint(rng, 0.25) * rng.uniform(0, 0.8)
    for _ in range(rng.integers(1, 5)):
        light = light + _lamp(directions, rng)[..., None] * _tint(rng, 0.08) * rng.uniform(2.5, 14)
    return (light / light.mean()).astype(np.float32)


def _lamp(directions: Floats, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how much (0 to 1) of a rectangle of light, mostly overhead, is in each direction."""
    axis = _direction(rng)
    axis[2] = abs(axis[2]) * rng.choice([1, 1, 1, -0.3])
    axis /= np.linalg.norm(axis)
    across = np.cross(axis, _direction(rng))
    across /= np.linalg.norm(across)
    along = np.cross(axis, across)
    ahead = directions @ axis
    half = rng.uniform(0.12, 0.6, 2)
    soft = rng.uniform(0.05, 0.2)
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = np.abs(directions @ across) / ahead, np.abs(directions @ along) / ahead
    edges = np.clip((half[0] - x) / soft + 0.5, 0, 1) * np.clip((half[1] - y) / soft + 0.5, 0, 1)
    return np.where(ahead > 0.05, edges, 0)


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _tint(rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """Return a colour around white."""
    return np.clip(1 + strength * rng.standard_normal(3), 0.2, 2)


def _filtered(radiance: Floats) -> tuple[Floats, Floats]:
    """Return what surfaces of each roughness reflect of rooms (N, S, S, 3), and what matt ones do.

    A lobe of GGX is taken as exp(k (cos - 1)) with k = 1 / (2 alpha^2), alpha = roughness^2.

    Source: Wang et al. 2009, "All-Frequency Rendering of Dynamic, Spatially-Varying Reflectance", sec. 3.
    """
    n = len(radiance)
    directions = octahedron().reshape(-1, 3)
    flat = np.ascontiguousarray(radiance.reshape(n, -1, 3).transpose(1, 0, 2).reshape(len(directions), -1))
    sharpness = [0.5 / float(rough) ** 4 for rough in ROUGHNESS]
    maps = []
    for k in (*sharpness, 0.0):  # 0: the cosine, for matt surfaces
        out = np.empty_like(flat)
        _filter(directions, flat, np.float32(k), out)
        maps.append(out.reshape(MAP_SIDE, MAP_SIDE, n, 3).transpose(2, 0, 1, 3))
    return np.ascontiguousarray(np.stack(maps[:-1], axis=1)), np.ascontiguousarray(maps[-1])


@fused
def _filter(directions: Floats, flat: Floats, sharpness: np.float32, out: Floats) -> None:
    """Write weighted means of the rows of `flat` (T, C) around each direction (T, 3)."""
    n, m = flat.shape
    for i in range(n):
        total = np.float32(0)
        for c in range(m):
            out[i, c] = 0
        for j in range(n):
            cosine = (
                directions[i, 0] * directions[j, 0]
                + directions[i, 1] * directions[j, 1]
                + directions[i, 2] * directions[j, 2]
            )
            if sharpness == 0:
                weight = max(cosine, np.float32(0))
            else:
                power = sharpness * (cosine - np.float32(1))
                weight = np.exp(power) if power > np.float32(-7) else np.float32(0)
            if weight > 0:
                total += weight
                for c in range(m):
                    out[i, c] += weight * flat[j, c]
        for c in range(m):
            out[i, c] /= total


def _texture(rng: np.random.Generator) -> Floats:
    """Return a surface: paint, concrete, wood, cloth, brushed metal or a printed pattern."""
    color = 0.03 + 0.7 * rng.random() ** 1.5 * np.ones(3)  # most workplaces are grey, or brown
    color = color * (1 + rng.choice([0.05, 0.2, 0.7], p=[0.5, 0.35, 0.15]) * rng.uniform(-1, 1, 3))
    if rng.random() < 0.25:
        color = color * (1.3, 1.0, 0.7)
    kind = rng.integers(5)
    if kind == 0:  # painted or plastic
        relief = _clouds(rng, (3, 3)) * rng.uniform(0, 0.15)
    elif kind == 1:  # concrete, cast or stone
        relief = _clouds(rng, (2, 2)) * 0.2 + _clouds(rng, (80, 80)) * rng.uniform(0.1, 0.3)
    elif kind == 2:  # wood, brushed metal: long grain
        relief = _clouds(rng, (60, 1)) * rng.uniform(0.1, 0.35) + _clouds(rng, (8, 1)) * 0.2
    elif kind == 3:  # cloth, grid
        wave = np.linspace(0, 2 * np.pi * rng.integers(6, 40), TEXTURE_SIDE, endpoint=False)
        relief = rng.uniform(0.1, 0.3) * (np.sin(wave)[:, None] + np.sin(wave)[None]) + _clouds(rng, (4, 4)) * 0.1
    else:  # patches, spilt and printed
        relief = np.sign(_clouds(rng, (4, 4))) * rng.uniform(0.1, 0.4) + _clouds(rng, (30, 30)) * 0.1
    accent = np.clip(color * rng.lognormal(0, 0.5) * rng.normal(1, 0.06, 3), 0.02, 0.9)
    blend = np.clip(0.5 + relief, 0, 1)[..., None]
    shade = np.exp(np.clip(relief, -1, 1) * 0.8)[..., None]
    return np.clip((color * blend + accent * (1 - blend)) * shade, 0.01, 0.95).astype(np.float32)


def _clouds(rng: np.random.Generator, waves: tuple[int, int]) -> NDArray[np.float64]:
    """Return noise (TEXTURE_SIDE, TEXTURE_SIDE) of deviation 1 that repeats, of about so many waves down and across."""
    y, x = (np.fft.fftfreq(TEXTURE_SIDE, 1 / TEXTURE_SIDE),) * 2
    falloff = 1 / (1 + (y[:, None] / waves[0]) ** 2 + (x[None] / waves[1]) ** 2) ** 1.2
    spectrum = np.fft.fft2(rng.standard_normal((TEXTURE_SIDE, TEXTURE_SIDE))) * falloff
    spectrum[0, 0] = 0
    noise = np.real(np.fft.ifft2(spectrum))
    return noise / noise.std()


def _photos(folder: Path, rng: np.random.Generator) -> list[Floats]:
    """Return images of a folder, a choice by seed if it has more than are kept."""
    paths, _ = find_images(folder)
    chosen: Sequence[int] = rng.permutation(len(paths))[:MAX_PHOTOS].tolist()
    half = TEXTURE_SIDE // 2
    photos: list[Floats] = []
    for number in chosen:
        small = cv2.resize(read_rgb(paths[number]), (half, half), interpolation=cv2.INTER_AREA)
        linear = (small.astype(np.float32) / 255) ** np.float32(2.2)
        photos.append(np.asarray(cv2.copyMakeBorder(linear, 0, half, 0, half, cv2.BORDER_REFLECT), np.float32))
    return photos
