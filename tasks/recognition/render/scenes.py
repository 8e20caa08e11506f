"""Scenes: parts and clutter that rest on a plane, seen from above, with boxes, masks and poses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.geometry.rotations import quaternion_of
from tasks.recognition.params import RenderParams
from tasks.recognition.render.composition import Camera, Placed
from tasks.recognition.render.drawing import Drawing, draw
from tasks.recognition.render.materials import random_material
from tasks.recognition.render.resting import Footprint, RestingPoses, resting_poses, scatter
from tasks.recognition.render.sensor import photograph
from tasks.recognition.render.solids import Solid
from tasks.recognition.render.studio import Studio
from tasks.recognition.render.surroundings import random_ground, random_light
from tasks.recognition.render.views import facing

_SIZES = (0.45, 1.6)  # of a part, in median diameters: what is larger or smaller is shown at these
_CLUTTER_SIZES = (0.4, 1.3)
_LEAST_PIXELS = 12  # of a part that is told of at all
_LEAST_VISIBLE = 0.03


@dataclass(frozen=True, slots=True)
class Cast:
    """What scenes are made of; shared by all threads."""

    parts: Sequence[Solid]
    clutter: Sequence[Solid]
    poses: Sequence[RestingPoses]  # of the parts, then of the clutter
    sizes: Sequence[float]  # of the parts, median diameters

    @classmethod
    def of(cls, parts: Sequence[Solid], clutter: Sequence[Solid]) -> "Cast":
        """Return parts and clutter with their stable poses."""
        median = float(np.median([part.diameter for part in parts]))
        sizes = [float(np.clip(part.diameter / median, *_SIZES)) for part in parts]
        return cls(parts, clutter, [resting_poses(solid) for solid in (*parts, *clutter)], sizes)


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and what is on it."""

    jpeg: bytes
    focal: float  # pixels; the axis goes through the middle
    annotations: list[dict[str, Any]]  # COCO's keys but ids, and our own


@dataclass(frozen=True, slots=True)
class _Standing:
    """A solid on the plane: world = size * turn @ own + place, z up."""

    number: int  # of the part; of clutter, beyond the parts
    solid: Solid
    turn: NDArray[np.float64]
    size: float
    place: NDArray[np.float64]


def render_scene(cast: Cast, studio: Studio, params: RenderParams, rng: np.random.Generator) -> Scene:
    """Return a scene."""
    standing = _arrange(cast, params, rng)
    camera, turn, shift = _look_down(standing, params.scene_size, rng)
    objects = []
    for one in standing:
        axis = rng.standard_normal(3)
        material = random_material(rng, params.materials)
        objects.append(
            Placed(
                one.solid,
                (turn @ one.turn).astype(np.float32),
                (turn @ one.place + shift).astype(np.float32),
                one.size,
                material,
                (axis / np.linalg.norm(axis)).astype(np.float32),
            )
        )
    up = turn[:, 2]
    light = random_light(studio, up, rng)
    drawing = draw(camera, objects, light, random_ground(studio, up, shift, rng), rng)
    jpeg = photograph(drawing.light, studio.noise, params, rng)
    notes = [
        _annotation(number, one.number, objects[number], drawing, camera, params.min_visible)
        for number, one in enumerate(standing)
        if one.number < len(cast.parts)
    ]
    return Scene(jpeg, camera.focal, [note for note in notes if note is not None])


def _arrange(cast: Cast, params: RenderParams, rng: np.random.Generator) -> list[_Standing]:
    """Return solids of a random choice, each where it found room."""
    n_parts = int(rng.integers(params.min_parts, params.max_parts + 1))
    n_clutter = int(rng.integers(params.max_clutter + 1)) if cast.clutter else 0
    numbers = [int(rng.integers(len(cast.parts))) for _ in range(n_parts)]
    numbers += [len(cast.parts) + int(rng.integers(len(cast.clutter))) for _ in range(n_clutter)]
    chosen = []
    for number in (numbers[i] for i in rng.permutation(len(numbers))):
        own = number < len(cast.parts)
        solid = cast.parts[number] if own else cast.clutter[number - len(cast.parts)]
        size = cast.sizes[number] if own else float(rng.uniform(*_CLUTTER_SIZES))
        poses = cast.poses[number]
        angle = rng.uniform(0, 2 * np.pi)
        spin = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        turn = spin @ poses.turns[rng.choice(len(poses.turns), p=poses.weights)]
        chosen.append((number, solid, turn, size, solid.outline @ turn.T * size))
    footprints = [Footprint.around(corners[:, :2]) for *_, corners in chosen]
    places = scatter(footprints, 0.2 * len(chosen) ** 0.5, rng)
    return [
        _Standing(number, solid, turn, size, np.array([*place, -corners[:, 2].min()]))
        for (number, solid, turn, size, corners), place in zip(chosen, places, strict=True)
        if place is not None
    ]


def _look_down(
    standing: Sequence[_Standing], size: int, rng: np.random.Generator
) -> tuple[Camera, NDArray[np.float64], NDArray[np.float64]]:
    """Return a camera above that holds nearly everything, and its turn (3, 3) and shift (3,) from the world."""
    elevation, azimuth = np.arcsin(rng.uniform(np.sin(np.radians(28)), 1)), rng.uniform(0, 2 * np.pi)
    flat = np.cos(elevation)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    turn = facing(direction, rng.normal(0, 0.12))
    corners = np.concatenate([one.solid.outline @ one.turn.T * one.size + one.place for one in standing])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    reach = float(np.linalg.norm(corners - middle, axis=1).max())
    focal = size * rng.uniform(0.9, 2.4)
    distance = reach * (2 * focal / size) * rng.uniform(0.7, 1.1) + reach * 0.4
    middle = middle + rng.normal(0, 0.08, 3) * reach * (1, 1, 0)
    return Camera(focal, size / 2, size / 2, size), turn, -turn @ (middle + direction * distance)


def _annotation(
    number: int, label: int, placed: Placed, drawing: Drawing, camera: Camera, least: float
) -> dict[str, Any] | None:
    """Return the entry of one part, None where hardly anything of it is seen."""
    mask = drawing.owner == number
    area = int(mask.sum())
    whole = drawing.n_whole[number]
    if area < _LEAST_PIXELS or whole == 0:
        return None
    visible = min(1.0, area / whole) * _share_inside(placed, camera)
    if visible < _LEAST_VISIBLE:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    scale = placed.solid.diameter / placed.size  # units of the file for one of the scene
    shift = placed.shift.astype(np.float64) * scale - placed.turn.astype(np.float64) @ placed.solid.center
    return {
        "category_id": label + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": area,
        "iscrowd": int(visible < least),
        "segmentation": {"size": [camera.size, camera.size], "counts": run_lengths(mask)},
        "rotation": [round(float(value), 6) for value in quaternion_of(placed.turn.astype(np.float64))],
        "translation": [float(f"{value:.6g}") for value in shift],
        "visible": round(visible, 4),
    }


def _share_inside(placed: Placed, camera: Camera) -> float:
    """Return how much of the hull of a part's projection is on the image."""
    hull = cv2.convexHull(camera.project(placed.outline).astype(np.float32))
    frame = np.array([[0, 0], [camera.size, 0], [camera.size, camera.size], [0, camera.size]], np.float32)
    inside, _ = cv2.intersectConvexConvex(hull, frame)
    return min(1.0, float(inside) / max(float(cv2.contourArea(hull)), 1e-6))


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask (H, W): down the columns, of zeros first."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], changes, [len(flat)]])
    lengths = np.diff(bounds).tolist()
    return [0, *lengths] if flat[0] else lengths
