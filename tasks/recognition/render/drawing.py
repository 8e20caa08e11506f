"""Draws solids before a camera by rays: what is seen, what is in the shade, and the light of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import kernel
from tasks.recognition.render import shading
from tasks.recognition.render.materials import N_VALUES
from tasks.recognition.render.solids import Solid
from tasks.recognition.render.studio import ROUGHNESS

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

F = np.float32
_SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]], np.float32)
"""Where the rays of a pixel at an edge go: a grid turned by 27 degrees, which smooths upright and level edges alike."""
_TILE = 4
"""Neighbouring pixels look in 16 different directions; the mean of a tile of them has looked in all."""
_LIFT = 2e-4  # diameters that rays start above a surface
_REACH = 0.6  # diameters within which surfaces take light from one another


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera without distortion at the origin that looks along z, with x to the right and y down."""

    focal: float  # pixels
    cx: float  # column of the axis, pixels from the left edge of the image
    cy: float
    size: int  # pixels a side

    def project(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return columns and rows (N, 2) of points (N, 3) in its frame."""
        return points[:, :2] / points[:, 2:] * self.focal + (self.cx, self.cy)


@dataclass(frozen=True, slots=True)
class Placed:
    """A solid before the camera: camera = size * turn @ own + shift."""

    solid: Solid
    turn: Floats  # (3, 3)
    shift: Floats  # (3,)
    size: float  # diameter
    material: Floats  # (N_VALUES,)
    scratch: Floats  # (3,) axis of tool marks, own frame

    def inside(self, points: Floats) -> Floats:
        """Return points (N, 3) or one (3,) of the camera's frame in its own."""
        return ((points - self.shift) @ self.turn / F(self.size)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Ground:
    """An endless plane."""

    normal: Floats  # (3,) unit, towards the camera
    along: Floats  # (3,) unit, in the plane: the texture's columns
    point: Floats  # (3,) on it
    texture: Floats  # (S, S, 3) linear
    tile: float  # size of the texture
    material: Floats  # (N_VALUES,)


@dataclass(frozen=True, slots=True)
class Light:
    """A room around, and one lamp."""

    room: Floats  # (L, S, S, 3)
    matt: Floats  # (S, S, 3)
    to_room: Floats  # (3, 3) from the camera's frame
    lamp: Floats  # (3,) unit direction to it
    color: Floats  # (3,) irradiance at right angles over pi
    spread: float  # sine of the half angle under which the lamp appears


@dataclass(frozen=True, slots=True)
class Drawing:
    """Linear light of an image, and what is where."""

    light: Floats  # (S, S, 3); without a ground, black where nothing is
    cover: Floats  # (S, S) share of each pixel that has something
    owner: Ints  # (S, S) number of the solid that is seen, -1 for none
    whole: list[Ints]  # of each solid the pixels (flat) it would have alone


class _Hits:
    """What each pixel's middle, or each of a list of rays, sees first."""

    def __init__(self, dirs: Floats) -> None:
        n = len(dirs)
        self.dirs = dirs
        self.owner = np.full(n, -1, np.int32)
        self.face = np.full(n, -1, np.int32)
        self.u, self.v = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.t = np.full(n, np.inf, np.float32)

    def add(self, number: int, placed: Placed, rows: Ints) -> Ints:
        """Trace rays at one solid; return which hit it, seen or not."""
        rays = (self.dirs[rows] @ placed.turn / F(placed.size)).astype(np.float32)
        face, u, v, t = placed.solid.first_hit(placed.inside(np.zeros(3, np.float32)), rays)
        _keep_nearest(rows, face, u, v, t, number, self.face, self.u, self.v, self.t, self.owner)
        return rows[face >= 0]


@kernel
def _keep_nearest(
    rows: Ints,
    face: Ints,
    u: Floats,
    v: Floats,
    t: Floats,
    number: int,
    all_face: Ints,
    all_u: Floats,
    all_v: Floats,
    all_t: Floats,
    owner: Ints,
) -> None:
    for r in range(len(rows)):
        i = rows[r]
        if face[r] >= 0 and t[r] < all_t[i]:
            all_face[i], all_u[i], all_v[i], all_t[i], owner[i] = face[r], u[r], v[r], t[r], number


def draw(
    camera: Camera, objects: Sequence[Placed], light: Light, ground: Ground | None, rng: np.random.Generator
) -> Drawing:
    """Return what the camera sees."""
    size = camera.size
    regions = [_region(camera, placed) for placed in objects]
    grid = np.arange(size * size, dtype=np.int32)
    middles = np.stack([grid % size, grid // size], axis=1).astype(np.float32) + F(0.5)
    hits = _Hits(_rays(camera, middles))
    whole = [
        hits.add(number, placed, region) for number, (placed, region) in enumerate(zip(objects, regions, strict=True))
    ]
    n_solids = len(objects)
    if ground is not None:
        _lay(hits, ground, n_solids)
    points, normals, local = _surfaces(hits, objects, ground)
    edges = np.flatnonzero(_edges(hits.owner, hits.t, normals, size))
    inner = hits.owner >= 0
    inner[edges] = False
    open_, lit = _occlusion(points, normals, hits.owner, objects, ground, light, rng, size)
    light_map, cover = np.zeros((size * size, 3), np.float32), np.zeros(size * size, np.float32)
    _paint(
        np.flatnonzero(inner).astype(np.int32),
        hits,
        points,
        normals,
        local,
        open_,
        lit,
        objects,
        ground,
        light,
        light_map,
    )
    cover[inner] = 1
    if len(edges):
        _smooth_edges(
            edges.astype(np.int32), middles, camera, regions, hits, open_, lit, objects, ground, light, light_map, cover
        )
    owner = np.where(hits.owner == n_solids, -1, hits.owner).reshape(size, size).astype(np.int32)
    return Drawing(light_map.reshape(size, size, 3), cover.reshape(size, size), owner, whole)


def _rays(camera: Camera, at: Floats) -> Floats:
    """Return directions (N, 3) of depth one through places of the image (N, 2)."""
    rays = np.ones((len(at), 3), np.float32)
    rays[:, 0] = (at[:, 0] - F(camera.cx)) / F(camera.focal)
    rays[:, 1] = (at[:, 1] - F(camera.cy)) / F(camera.focal)
    return rays


def _region(camera: Camera, placed: Placed) -> Ints:
    """Return the pixels that a solid may touch: those in the hull of its projection, and their neighbours."""
    corners = placed.solid.outline @ placed.turn.T * F(placed.size) + placed.shift
    hull = cv2.convexHull(camera.project(corners).astype(np.float32))
    mask = np.zeros((camera.size, camera.size), np.uint8)
    fixed = np.round((hull - 0.5) * 16).astype(np.int32)  # pixel middles are whole numbers there
    cv2.fillConvexPoly(mask, fixed, 1, shift=4)
    cv2.polylines(mask, [fixed], True, 1, thickness=2, shift=4)
    return np.flatnonzero(mask).astype(np.int32)


def _lay(hits: _Hits, ground: Ground, number: int) -> None:
    """Let the rays that hit nothing nearer hit the ground."""
    with np.errstate(divide="ignore"):
        t = F(ground.normal @ ground.point) / (hits.dirs @ ground.normal)
    nearer = (t > 0) & (t < hits.t)
    hits.owner[nearer], hits.t[nearer] = number, t[nearer]


def _surfaces(hits: _Hits, objects: Sequence[Placed], ground: Ground | None) -> tuple[Floats, Floats, Floats]:
    """Return points and normals in the camera's frame, and points in the solids' own frames, (N, 3) each."""
    n = len(hits.dirs)
    points, normals, local = (np.zeros((n, 3), np.float32) for _ in range(3))
    for number, placed in enumerate(objects):
        rows = np.flatnonzero(hits.owner == number).astype(np.int32)
        shading.place(
            hits.dirs,
            hits.face,
            hits.u,
            hits.v,
            hits.t,
            rows,
            placed.solid.normals,
            placed.turn,
            placed.shift,
            F(placed.size),
            points,
            normals,
            local,
        )
    if ground is not None:
        rows = np.flatnonzero(hits.owner == len(objects)).astype(np.int32)
        points[rows] = hits.t[rows, None] * hits.dirs[rows]
        normals[rows] = ground.normal
    return points, normals, local


@kernel
def _differs(i: int, j: int, owner: Ints, t: Floats, normals: Floats) -> bool:
    if owner[i] != owner[j]:
        return True
    if owner[i] < 0:
        return False
    turn = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
    return turn < F(0.9) or abs(t[i] - t[j]) > F(0.05) * t[i]


@kernel
def _find_edges(owner: Ints, t: Floats, normals: Floats, size: int, edges: NDArray[np.bool_]) -> None:
    for row in range(size):
        for column in range(size):
            i = row * size + column
            if column + 1 < size and _differs(i, i + 1, owner, t, normals):
                edges[i] = edges[i + 1] = True
            if row + 1 < size and _differs(i, i + size, owner, t, normals):
                edges[i] = edges[i + size] = True


def _edges(owner: Ints, t: Floats, normals: Floats, size: int) -> NDArray[np.bool_]:
    """Return which pixels lie beside one of another surface, (N,)."""
    edges = np.zeros(size * size, np.bool_)
    _find_edges(owner, t, normals, size, edges)
    return edges


def _occlusion(
    points: Floats,
    normals: Floats,
    owner: Ints,
    objects: Sequence[Placed],
    ground: Ground | None,
    light: Light,
    rng: np.random.Generator,
    size: int,
) -> tuple[Floats, Floats]:
    """Return of each pixel which share of the sky is open, and which of the lamp, (N,) each.

    Each pixel sends one ray upwards and one to the lamp; a tile of 4 x 4 of them stands for its middle.
    """
    rows = np.flatnonzero(owner >= 0).astype(np.int32)
    angles, radii = _pattern(rng)
    upward, lampward = np.empty((len(rows), 3), np.float32), np.empty((len(rows), 3), np.float32)
    starts = np.empty((len(rows), 3), np.float32)
    _aim(rows, size, points, normals, angles, radii, light.lamp, F(light.spread), F(_LIFT), starts, upward, lampward)
    hidden, shaded = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    reach = _REACH * max((placed.size for placed in objects), default=1.0)
    facing = np.flatnonzero(normals[rows] @ light.lamp > 0).astype(np.int32)
    everything = np.arange(len(rows), dtype=np.int32)
    for placed in objects:
        _block(placed, starts, upward, everything, reach, hidden)
        _block(placed, starts, lampward, facing, 1e6, shaded)
    sky, lamp = np.ones(len(owner), np.float32), np.ones(len(owner), np.float32)
    sky[rows], lamp[rows] = ~hidden, ~shaded
    if ground is not None:
        _near_ground(
            rows, owner, len(objects), points, upward, ground.normal, F(ground.normal @ ground.point), F(reach), sky
        )
    out_sky, out_lamp = np.ones_like(sky), np.ones_like(lamp)
    _mean_of_tile(rows, size, owner, points, normals, sky, lamp, out_sky, out_lamp)
    return out_sky, out_lamp


def _pattern(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return angle and radius, on the unit disc, of the direction of each pixel of a tile (16,)."""
    order = rng.permutation(_TILE * _TILE)
    k = np.arange(_TILE * _TILE)
    angles = (k * (np.pi * (3 - 5**0.5)) + rng.uniform(0, 2 * np.pi))[order]
    return angles.astype(np.float32), np.sqrt((k + 0.5) / len(k))[order].astype(np.float32)


@kernel
def _aim(
    rows: Ints,
    size: int,
    points: Floats,
    normals: Floats,
    angles: Floats,
    radii: Floats,
    lamp: Floats,
    spread: np.float32,
    lift: np.float32,
    starts: Floats,
    upward: Floats,
    lampward: Floats,
) -> None:
    """Write where rays start, and their directions: around the normal by the cosine, and to a place on the lamp."""
    for r in range(len(rows)):
        i = rows[r]
        k = (i // size % _TILE) * _TILE + i % size % _TILE
        x, y = radii[k] * np.cos(angles[k]), radii[k] * np.sin(angles[k])
        z = np.sqrt(max(F(1) - x * x - y * y, F(0.01)))
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        # Duff et al. 2017, "Building an Orthonormal Basis, Revisited".
        sign = F(1) if nz >= 0 else F(-1)
        a = F(-1) / (sign + nz)
        b = nx * ny * a
        upward[r, 0] = x * (F(1) + sign * nx * nx * a) + y * b + z * nx
        upward[r, 1] = x * sign * b + y * (sign + ny * ny * a) + z * ny
        upward[r, 2] = -x * sign * nx - y * ny + z * nz
        # The sideways parts serve as the place on the lamp's disc: near enough to even.
        lampward[r, 0] = lamp[0] + spread * x
        lampward[r, 1] = lamp[1] + spread * y
        lampward[r, 2] = lamp[2] + spread * (radii[k] - F(0.67))
        away = lift * max(F(1), abs(points[i, 2]))
        for c in range(3):
            starts[r, c] = points[i, c] + away * normals[i, c]


def _block(placed: Placed, starts: Floats, rays: Floats, among: Ints, reach: float, blocked: NDArray[np.bool_]) -> None:
    """Mark the rays that a solid stands in the way of; only those that come near its sphere are traced."""
    near = np.zeros(len(among), np.bool_)
    _pass_sphere(among, starts, rays, placed.shift, F(placed.size / 2), F(reach), blocked, near)
    chosen = among[near]
    if len(chosen):
        inner = (rays[chosen] @ placed.turn / F(placed.size)).astype(np.float32)
        blocked[chosen] = placed.solid.blocks(placed.inside(starts[chosen]), inner, reach)


@kernel
def _pass_sphere(
    among: Ints,
    starts: Floats,
    rays: Floats,
    middle: Floats,
    radius: np.float32,
    reach: np.float32,
    blocked: NDArray[np.bool_],
    near: NDArray[np.bool_],
) -> None:
    for k in range(len(among)):
        i = among[k]
        if blocked[i]:
            continue
        x, y, z = middle[0] - starts[i, 0], middle[1] - starts[i, 1], middle[2] - starts[i, 2]
        ahead = x * rays[i, 0] + y * rays[i, 1] + z * rays[i, 2]
        distance = x * x + y * y + z * z
        length = rays[i, 0] * rays[i, 0] + rays[i, 1] * rays[i, 1] + rays[i, 2] * rays[i, 2]
        inside = distance < radius * radius
        passes = ahead > 0 and distance - ahead * ahead / length < radius * radius
        near[k] = inside or (passes and np.sqrt(distance) - radius < reach * np.sqrt(length))


@kernel
def _near_ground(
    rows: Ints,
    owner: Ints,
    ground: int,
    points: Floats,
    upward: Floats,
    normal: Floats,
    level: np.float32,
    reach: np.float32,
    sky: Floats,
) -> None:
    """Darken what looks down at the ground close by: the ground sends half of the light on."""
    for r in range(len(rows)):
        i = rows[r]
        if owner[i] == ground or sky[i] == 0:
            continue
        down = -(upward[r, 0] * normal[0] + upward[r, 1] * normal[1] + upward[r, 2] * normal[2])
        if down > F(0.01):
            height = points[i, 0] * normal[0] + points[i, 1] * normal[1] + points[i, 2] * normal[2] - level
            away = height / down
            if away < reach:
                sky[i] = F(0.3) + F(0.5) * max(away, F(0)) / reach


@kernel
def _mean_of_tile(
    rows: Ints,
    size: int,
    owner: Ints,
    points: Floats,
    normals: Floats,
    sky: Floats,
    lamp: Floats,
    out_sky: Floats,
    out_lamp: Floats,
) -> None:
    """Average over the 4 x 4 pixels around each that belong to the same surface."""
    for r in range(len(rows)):
        i = rows[r]
        row, column = i // size, i % size
        total_sky, total_lamp, n = F(0), F(0), F(0)
        for y in range(max(row - 2, 0), min(row + 2, size)):
            for x in range(max(column - 2, 0), min(column + 2, size)):
                j = y * size + x
                if owner[j] != owner[i]:
                    continue
                turn = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
                if turn < F(0.8) or abs(points[j, 2] - points[i, 2]) > F(0.05) * points[i, 2]:
                    continue
                total_sky, total_lamp, n = total_sky + sky[j], total_lamp + lamp[j], n + F(1)
        if n > 0:
            out_sky[i], out_lamp[i] = total_sky / n, total_lamp / n


def _paint(
    rows: Ints,
    hits: _Hits,
    points: Floats,
    normals: Floats,
    local: Floats,
    open_: Floats,
    lit: Floats,
    objects: Sequence[Placed],
    ground: Ground | None,
    light: Light,
    out: Floats,
) -> None:
    """Write the light (N, 3) of some rows."""
    owner, points, normals, dirs = hits.owner[rows], points[rows], normals[rows], hits.dirs[rows]
    mine = local[rows]
    for number, placed in enumerate(objects):
        inside = np.flatnonzero(owner == number).astype(np.int32)
        shading.roughen(inside, mine, placed.turn, placed.material, placed.scratch, dirs, normals)
    albedo = np.zeros((len(rows), 3), np.float32)
    if ground is not None:
        below = owner == len(objects)
        albedo[below] = _texture_at(ground, points[below])
    last = ground.material if ground is not None else np.zeros(N_VALUES, np.float32)
    materials = np.stack([*(placed.material for placed in objects), last])
    colors = np.empty((len(rows), 3), np.float32)
    shading.shade(
        points,
        normals,
        owner,
        albedo,
        materials,
        open_[rows],
        lit[rows],
        light.lamp,
        light.color,
        light.room,
        light.matt,
        ROUGHNESS,
        light.to_room,
        colors,
    )
    out[rows] = colors


def _texture_at(ground: Ground, points: Floats) -> Floats:
    """Return the ground's colour (N, 3) at points of it."""
    across = np.cross(ground.normal, ground.along).astype(np.float32)
    side = ground.texture.shape[0]
    away: Floats = (points - ground.point) * F(side / ground.tile)
    colors = np.empty((len(points), 3), np.float32)
    axes = np.stack([ground.along, across], axis=1)
    _look_up(ground.texture, (away @ axes).astype(np.float32), colors)
    return colors


@kernel
def _look_up(texture: Floats, at: Floats, colors: Floats) -> None:
    """Write colours (N, 3) at places (N, 2), texels, of a texture (S, S, 3) that repeats, S a power of two."""
    last = texture.shape[0] - 1
    for i in range(len(at)):
        fx, fy = np.floor(at[i, 0]), np.floor(at[i, 1])
        a, b = at[i, 0] - fx, at[i, 1] - fy
        c0, r0 = np.int32(fx) & last, np.int32(fy) & last
        c1, r1 = (c0 + 1) & last, (r0 + 1) & last
        for c in range(3):
            upper = texture[r0, c0, c] + a * (texture[r0, c1, c] - texture[r0, c0, c])
            lower = texture[r1, c0, c] + a * (texture[r1, c1, c] - texture[r1, c0, c])
            colors[i, c] = upper + b * (lower - upper)


def _smooth_edges(
    edges: Ints,
    middles: Floats,
    camera: Camera,
    regions: Sequence[Ints],
    hits: _Hits,
    open_: Floats,
    lit: Floats,
    objects: Sequence[Placed],
    ground: Ground | None,
    light: Light,
    out: Floats,
    cover: Floats,
) -> None:
    """Write light and cover of the pixels at edges, as means of four rays each."""
    n = len(edges)
    at = (middles[edges][:, None] + _SUBPIXELS).reshape(-1, 2)
    fine = _Hits(_rays(camera, at))
    slot = np.full(len(hits.owner), -1, np.int32)
    slot[edges] = np.arange(n)
    for number, (placed, region) in enumerate(zip(objects, regions, strict=True)):
        pixels = slot[region]
        pixels = pixels[pixels >= 0]
        if len(pixels):
            fine.add(number, placed, (pixels[:, None] * 4 + np.arange(4)).reshape(-1).astype(np.int32))
    if ground is not None:
        _lay(fine, ground, len(objects))
    points, normals, local = _surfaces(fine, objects, ground)
    sky, lamp = np.ones(4 * n, np.float32), np.ones(4 * n, np.float32)
    _take_from_neighbours(edges, camera.size, fine.owner, fine.t, normals, hits.owner, hits.t, open_, lit, sky, lamp)
    colors = np.zeros((4 * n, 3), np.float32)
    rows = np.flatnonzero(fine.owner >= 0).astype(np.int32)
    _paint(rows, fine, points, normals, local, sky, lamp, objects, ground, light, colors)
    # One bright spark in four would stand out as no camera shows it.
    out[edges] = np.minimum(colors, F(6)).reshape(n, 4, 3).mean(axis=1)
    cover[edges] = (fine.owner >= 0).reshape(n, 4).mean(axis=1)


@kernel
def _take_from_neighbours(
    edges: Ints,
    size: int,
    owner: Ints,
    t: Floats,
    normals: Floats,
    all_owner: Ints,
    all_t: Floats,
    open_: Floats,
    lit: Floats,
    sky: Floats,
    lamp: Floats,
) -> None:
    """Take occlusion from the nearest of the nine pixels around that sees the same solid at the same depth."""
    for e in range(len(edges)):
        row, column = edges[e] // size, edges[e] % size
        for s in range(4):
            i = 4 * e + s
            best = F(1e9)
            for y in range(max(row - 1, 0), min(row + 2, size)):
                for x in range(max(column - 1, 0), min(column + 2, size)):
                    j = y * size + x
                    if all_owner[j] != owner[i] or owner[i] < 0:
                        continue
                    off = abs(all_t[j] - t[i])
                    if off < best:
                        best, sky[i], lamp[i] = off, open_[j], lit[j]
