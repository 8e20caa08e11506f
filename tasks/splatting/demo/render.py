"""Draws a textured room by casting rays, from cameras that are known exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.splatting.render.cameras import Camera

Floats = NDArray[np.float32]

_TEXELS = 512  # a side of a texture
_LIGHT_CELLS = 256
_SUPERSAMPLING = 2  # rays a pixel, each way
_LIGHT = np.array([0.45, -0.35, 0.82], np.float32)
_AMBIENT = 0.55
_PALETTES = (
    ((212, 180, 131), (120, 82, 49), (240, 222, 188), (170, 120, 70)),
    ((196, 80, 62), (240, 196, 150), (120, 36, 40), (250, 232, 214)),
    ((62, 120, 160), (200, 224, 232), (28, 58, 96), (244, 204, 92)),
    ((96, 148, 92), (222, 232, 180), (42, 84, 58), (240, 240, 230)),
    ((150, 110, 170), (232, 214, 240), (84, 52, 110), (250, 200, 120)),
    ((226, 160, 60), (96, 60, 40), (250, 232, 190), (190, 70, 50)),
)


@dataclass(frozen=True, slots=True)
class Box:
    """A box that stands turned about the vertical axis; the room is one seen from inside."""

    center: Floats  # (3,)
    half: Floats  # (3,) half sides
    angle: float  # radians about +z
    texture: Floats  # (T, T, 3) in [0, 1]
    texels_per_unit: float


@dataclass(frozen=True, slots=True)
class Ball:
    """A sphere; its texture is wrapped by longitude and latitude."""

    center: Floats  # (3,)
    radius: float
    texture: Floats  # (T, T, 3) in [0, 1]


@dataclass(frozen=True, slots=True)
class Room:
    """All there is to see; +z is up, the floor is at 0."""

    walls: Box
    boxes: tuple[Box, ...]
    balls: tuple[Ball, ...]
    floor_light: Floats  # (L, L), in [0, 1]


def make_room(seed: int) -> Room:
    """Return a room of 7 x 7 x 3.2 units with things standing around its middle; the seed draws the textures."""
    rng = np.random.default_rng(seed)
    textures = [_texture(rng, _PALETTES[index]) for index in (0, 2, 1, 3, 4, 5, 5, 2, 1)]
    places = (
        ((0.0, 0.0, 0.35), (0.45, 0.35, 0.35), 0.4),
        ((-0.9, 0.55, 0.5), (0.25, 0.28, 0.5), 1.0),
        ((0.85, 0.75, 0.25), (0.35, 0.25, 0.25), -0.5),
        ((0.75, -0.8, 0.4), (0.22, 0.3, 0.4), 0.2),
        ((-0.7, -0.75, 0.18), (0.38, 0.3, 0.18), -0.9),
    )
    boxes = tuple(
        Box(_vector(*center), _vector(*half), angle, texture, 380.0)
        for (center, half, angle), texture in zip(places, textures[1:6], strict=True)
    )
    balls = (
        Ball(_vector(0.05, 0.0, 0.98), 0.28, textures[6]),
        Ball(_vector(-0.1, 1.0, 0.3), 0.3, textures[7]),
        Ball(_vector(0.1, -1.15, 0.22), 0.22, textures[8]),
    )
    walls = Box(_vector(0, 0, 1.6), _vector(3.5, 3.5, 1.6), 0.0, textures[0], 130.0)
    return Room(walls, boxes, balls, _floor_light(boxes, balls))


def _vector(x: float, y: float, z: float) -> Floats:
    return np.array([x, y, z], np.float32)


def _floor_light(boxes: Sequence[Box], balls: Sequence[Ball]) -> Floats:
    """Return how bright the floor is around what stands on it, (L, L) over the 7 x 7 units."""
    at = (np.arange(_LIGHT_CELLS) / (_LIGHT_CELLS - 1) - 0.5) * 7
    light = np.ones((_LIGHT_CELLS, _LIGHT_CELLS))
    stands = [(box.center, float(box.half[:2].max()) * 1.5) for box in boxes]
    stands += [(ball.center, ball.radius * 1.3) for ball in balls]
    for center, reach in stands:
        x, y = at - center[0] + 0.12 * _LIGHT[0], at - center[1] + 0.12 * _LIGHT[1]
        light *= 1 - 0.45 * np.exp(-(x**2 + y[:, None] ** 2) / reach**2)
    return light.astype(np.float32)


def _texture(rng: np.random.Generator, palette: tuple[tuple[int, int, int], ...]) -> Floats:
    """Return soft-edged shapes over clouds, (T, T, 3) in [0, 1], the same at opposite edges so that it repeats."""
    colors = np.array(palette, np.float32) / 255
    size = _TEXELS
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = colors[0]
    for _ in range(260):
        color = colors[rng.integers(len(colors))] * rng.uniform(0.75, 1.1)
        center, reach = rng.integers(0, size, 2), int(rng.integers(6, 34))
        angle, sides, spread = rng.uniform(0, 360), int(rng.integers(3, 9)), rng.uniform(0.5, 1.0)
        outline = cv2.ellipse2Poly((0, 0), (reach, max(3, int(reach * spread))), int(angle), 0, 360, 360 // sides)
        for shift in np.ndindex(3, 3):  # what leaves on one side comes in on the other
            cv2.fillPoly(canvas, [outline + center + (np.array(shift) - 1) * size], color.tolist(), cv2.LINE_AA)
    for cells in (8, 32, 128):
        noise = cv2.resize(
            rng.uniform(-1, 1, (cells, cells)).astype(np.float32), (size, size), None, 0, 0, cv2.INTER_CUBIC
        )
        canvas *= 1 + 0.10 * noise[..., None]
    wrapped = cv2.copyMakeBorder(canvas, 16, 16, 16, 16, cv2.BORDER_WRAP)
    # Nothing finer than about three texels is left: what cannot be sampled would crawl from image to image.
    soft = cv2.GaussianBlur(wrapped, (0, 0), 1.4)[16:-16, 16:-16]
    return np.clip(soft, 0, 1)


def render(room: Room, camera: Camera) -> NDArray[np.uint8]:
    """Return the image the camera takes of the room, (H, W, 3) RGB."""
    fine = camera.resized(camera.width * _SUPERSAMPLING, camera.height * _SUPERSAMPLING)
    rays, origin = _rays(fine), camera.center.astype(np.float32)
    depth, color = _hit_box(room.walls, origin, rays, room.floor_light)
    things: tuple[Box | Ball, ...] = (*room.boxes, *room.balls)
    for thing in things:
        rows, columns = _window(thing, fine)
        part = rays[:, rows, columns]
        near, paint = _hit_box(thing, origin, part) if isinstance(thing, Box) else _hit_ball(thing, origin, part)
        front = near < depth[rows, columns]
        depth[rows, columns][front] = near[front]
        color[rows, columns][front] = paint[front]
    small = cv2.resize(color, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(small * 255 + 0.5, 0, 255), np.uint8)


def _rays(camera: Camera) -> Floats:
    """Return the direction of every pixel's ray, (3, H, W), of length 1 along the camera's z."""
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = ((np.arange(camera.height) + 0.5 - camera.cy) / camera.fy)[:, None]
    rows = camera.world_to_camera[:3, :3]
    return np.stack([rows[0, axis] * x + rows[1, axis] * y + rows[2, axis] for axis in range(3)]).astype(np.float32)


def _window(thing: Box | Ball, camera: Camera) -> tuple[slice, slice]:
    """Return the rows and columns a thing can be seen in."""
    reach = float(np.linalg.norm(thing.half)) if isinstance(thing, Box) else thing.radius
    corners = thing.center + reach * (np.array(list(np.ndindex(2, 2, 2))) * 2 - 1)
    seen = corners @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    if seen[:, 2].min() < 0.05:  # partly behind the camera: its outline is not that of its corners
        return slice(None), slice(None)
    columns = seen[:, 0] / seen[:, 2] * camera.fx + camera.cx
    rows = seen[:, 1] / seen[:, 2] * camera.fy + camera.cy
    return (
        slice(max(0, int(rows.min())), max(0, int(rows.max()) + 1)),
        slice(max(0, int(columns.min())), max(0, int(columns.max()) + 1)),
    )


def _hit_box(box: Box, origin: Floats, rays: Floats, floor_light: Floats | None = None) -> tuple[Floats, Floats]:
    """Return depth (H, W), infinite where missed, and colour (H, W, 3) of where rays enter a box.

    With `floor_light` the box is the room: where rays leave it.
    """
    inside = floor_light is not None
    signs = (-1, 1) if inside else (1, -1)  # normals point to where the camera is
    cos, sin = np.float32(np.cos(box.angle)), np.float32(np.sin(box.angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
    start = turn @ (origin - box.center)
    x, y, z = cos * rays[0] + sin * rays[1], cos * rays[1] - sin * rays[0], rays[2]
    nears, fars = zip(*map(_slab, start, box.half, (x, y, z)), strict=True)
    leave = np.minimum(np.minimum(fars[0], fars[1]), fars[2])
    enter = np.maximum(np.maximum(nears[0], nears[1]), nears[2])
    depth = leave if inside else enter
    sides = fars if inside else nears
    hit = (depth > 0) & (enter <= leave)
    t = np.where(hit, depth, 0)
    x, y, z = start[0] + t * x, start[1] + t * y, start[2] + t * z
    on_x, on_y = depth == sides[0], depth == sides[1]
    on_z = ~(on_x | on_y)
    positive = np.where(on_x, x, np.where(on_y, y, z)) > 0
    # Each face has a place of its own in the texture.
    u = np.where(on_x, y, x) + np.where(on_x, 0, np.where(on_y, np.float32(0.37), np.float32(0.74)))
    v = np.where(on_z, y, z) + np.where(positive, np.float32(0.61), np.float32(0))
    color = _sample(box.texture, u * box.texels_per_unit, v * box.texels_per_unit)
    faces = [np.where(positive, *(_shade(sign * turn[axis]) for sign in signs)) for axis in range(3)]
    light = np.where(on_x, faces[0], np.where(on_y, faces[1], faces[2])).astype(np.float32)
    if floor_light is not None:
        cells = (_LIGHT_CELLS - 1) / (2 * box.half[0])
        floor = cv2.remap(floor_light, (x + box.half[0]) * cells, (y + box.half[1]) * cells, cv2.INTER_LINEAR)
        light = np.where(on_z & ~positive, light * floor, light)
    return np.where(hit, depth, np.float32(np.inf)), color * light[..., None]


def _slab(at: np.float32, half: np.float32, way: Floats) -> tuple[Floats, Floats]:
    """Return the depths (H, W) between which rays are between two opposite faces."""
    inverse = 1 / np.where(np.abs(way) < 1e-7, np.float32(1e-7), way)
    low, high = (-half - at) * inverse, (half - at) * inverse
    return np.minimum(low, high), np.maximum(low, high)


def _hit_ball(ball: Ball, origin: Floats, rays: Floats) -> tuple[Floats, Floats]:
    """Return depth (H, W), infinite where missed, and colour (H, W, 3)."""
    start = origin - ball.center
    a, b = (rays * rays).sum(0), np.tensordot(start, rays, 1)
    root = b * b - a * (float(start @ start) - ball.radius**2)
    hit = root > 0
    depth = (-b - np.sqrt(np.maximum(root, 0))) / a
    normals = (start[:, None, None] + depth * rays) / np.float32(ball.radius)
    longitude, latitude = np.arctan2(normals[1], normals[0]), np.arcsin(np.clip(normals[2], -1, 1))
    color = _sample(ball.texture, longitude * (_TEXELS / (2 * np.pi)), latitude * (_TEXELS / (2 * np.pi)))
    lit = _shade(normals.transpose(1, 2, 0))
    return np.where(hit, depth, np.float32(np.inf)), color * lit[..., None]


def _sample(texture: Floats, u: Floats, v: Floats) -> Floats:
    columns, rows = np.mod(u, _TEXELS).astype(np.float32), np.mod(v, _TEXELS).astype(np.float32)
    return np.asarray(cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)


def _shade(normals: Floats) -> Floats:
    """Return the light on surfaces with normals (..., 3)."""
    direction = _LIGHT / np.linalg.norm(_LIGHT)
    return np.asarray(_AMBIENT + (1 - _AMBIENT) * np.maximum(normals @ direction, 0), np.float32)
