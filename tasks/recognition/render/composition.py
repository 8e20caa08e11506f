"""What a drawing is made of: the camera, solids before it, the ground, and the light."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.geometry.rotations import cross
from tasks.recognition.render.solids import Solid

Floats = NDArray[np.float32]
Rows = NDArray[np.uint32]
F = np.float32

Box = tuple[int, int, int, int]
"""First row and column of a rectangle of pixels, and those after its last."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera without distortion at the origin that looks along z, with x to the right and y down."""

    focal: float  # pixels
    cx: float  # column of the axis, pixels from the left edge of the image
    cy: float
    size: int  # pixels a side

    def project(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return columns and rows (N, 2) of points (N, 3) in its frame."""
        return np.asarray(points[:, :2] / points[:, 2:] * self.focal + (self.cx, self.cy), np.float64)


@dataclass(frozen=True)
class Placed:
    """A solid before the camera: camera = size * turn @ own + shift."""

    solid: Solid
    turn: Floats  # (3, 3)
    shift: Floats  # (3,)
    size: float  # diameter
    material: Floats  # (N_VALUES,)
    scratch: Floats  # (3,) unit axis of tool marks, own frame

    def inside(self, point: Floats) -> Floats:
        """Return a point (3,) of the camera's frame in its own."""
        return ((point - self.shift) @ self.turn / F(self.size)).astype(np.float32)

    @cached_property
    def outline(self) -> Floats:
        """Return points (H, 3) around it, camera frame."""
        return (self.solid.outline @ self.turn.T * F(self.size) + self.shift).astype(np.float32)

    @cached_property
    def sight(self) -> NDArray[np.float64]:
        """Return x and y (H, 2) at depth one of the rays from the camera to the points around it."""
        return np.asarray(self.outline[:, :2] / self.outline[:, 2:], np.float64)

    def box(self, camera: Camera) -> Box:
        """Return a box around the pixels that it may touch."""
        at = self.sight * camera.focal + (camera.cx, camera.cy)
        (left, top), (right, bottom) = np.clip([at.min(axis=0) - 2, at.max(axis=0) + 3], 0, camera.size).astype(int)
        return int(top), int(left), int(bottom), int(right)

    def region(self, camera: Camera) -> Rows:
        """Return the pixels that it may touch, by number: those in the hull of its projection, and their neighbours."""
        hull = cv2.convexHull(camera.project(self.outline).astype(np.float32))
        mask = np.zeros((camera.size, camera.size), np.uint8)
        limit = 64 * camera.size  # what lies far outside would leave the range of whole numbers
        fixed = np.clip(np.round((hull - 0.5) * 16), -16 * limit, 16 * limit).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed, 1, shift=4)
        cv2.polylines(mask, [fixed], True, 1, thickness=2, shift=4)
        return np.flatnonzero(mask).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Ground:
    """An endless plane."""

    normal: Floats  # (3,) unit, towards the camera
    along: Floats  # (3,) unit, in the plane: the texture's columns
    point: Floats  # (3,) on it
    texture: Floats  # (S, S, 3) linear, S a power of two
    tile: float  # size of the texture
    material: Floats  # (N_VALUES,)

    def axes(self) -> Floats:
        """Return what gives places on the texture (2, 4): texel = axes[:, :3] @ point + axes[:, 3]."""
        across = cross(self.normal, self.along)
        both = np.stack([self.along, across]) * (self.texture.shape[0] / self.tile)
        return np.hstack([both, -both @ self.point[:, None]]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Light:
    """A room around, and one lamp."""

    room: Floats  # (L, S, S, 3)
    matt: Floats  # (S, S, 3)
    to_room: Floats  # (3, 3) from the camera's frame
    lamp: Floats  # (3,) unit direction to it
    color: Floats  # (3,) irradiance at right angles over pi
    spread: float  # sine of the half angle under which the lamp appears
