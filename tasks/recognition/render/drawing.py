"""Draws solids before a camera by rays: what is seen, how it is lit, and smooth edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.geometry.jit import F, Flags, Floats, Ints, Rows, U, fused
from tasks.recognition.render.composition import Box, Camera, Ground, Light, Placed
from tasks.recognition.render.hits import Hits, pixel_rays
from tasks.recognition.render.occlusion import occlusion
from tasks.recognition.render.shading import Palette

ZERO = F(0)
_SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]], np.float32)
"""Where the rays of a pixel at an edge go: a grid turned by 27 degrees, which smooths upright and level edges alike."""
_BRIGHTEST = F(6)  # one spark in four rays would stand out as no camera shows it


@dataclass(frozen=True, slots=True)
class Drawing:
    """Linear light of an image, and what is where."""

    light: Floats  # (S, S, 3); without a ground, black where nothing is
    cover: Floats  # (S, S) share of each pixel that has something
    owner: Ints  # (S, S) number of the solid that is seen, -1 for none
    n_whole: list[int]  # pixels that each solid would have alone


def draw(
    camera: Camera, objects: Sequence[Placed], light: Light, ground: Ground | None, rng: np.random.Generator
) -> Drawing:
    """Return what the camera sees of at least one solid."""
    n, size, n_objects = camera.size * camera.size, camera.size, len(objects)
    hits = Hits(pixel_rays(camera))
    boxes = [placed.box(camera) for placed in objects]
    n_whole = [hits.draw(number, *own, camera) for number, own in enumerate(zip(objects, boxes, strict=True))]
    if ground is not None:
        hits.lay(n_objects, ground)
    colors, cover, bent = np.zeros((n, 3), np.float32), np.empty(n, np.float32), np.zeros(n, np.bool_)
    seen, inner, edges = _sorted_pixels(size, hits, bent, cover)
    sky, lamp = occlusion(seen, bent, hits, size, objects, ground, light, rng)
    palette = Palette.of(objects, ground, light)
    palette.paint(inner, hits, sky, lamp, colors)
    if len(edges):
        _smooth_edges(edges, camera, palette, boxes, hits, ground, (sky, lamp), colors, cover)
    _forget(hits.owner, n_objects)
    shape = (size, size)
    return Drawing(colors.reshape(*shape, 3), cover.reshape(shape), hits.owner.reshape(shape), n_whole)


def _sorted_pixels(size: int, hits: Hits, bent: Flags, cover: Floats) -> tuple[Rows, Rows, Rows]:
    """Return the pixels that see anything, those of them that are not at an edge, and all that are at one.

    Args:
        bent: (N,) false; true is written where the surface bends, or another one is beside it.
        cover: (N,), written but for pixels at an edge.
    """
    n = size * size
    edge = np.zeros(n, np.bool_)
    _find_edges(size, hits.owner, hits.face, hits.t, hits.normals, edge, bent)
    seen, inner, edges = np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.uint32)
    n_seen, n_inner, n_edges = _sort(hits.owner, edge, seen, inner, edges, cover)
    return seen[:n_seen], inner[:n_inner], edges[:n_edges]


@fused
def _sort(owner: Ints, edge: Flags, seen: Rows, inner: Rows, edges: Rows, cover: Floats) -> tuple[int, int, int]:
    a, b, c = U(0), U(0), U(0)
    for i in range(U(len(owner))):  # written always, kept where it is counted: without a branch
        at_edge, something = U(edge[i]), U(owner[i] >= 0)
        cover[i] = F(something)
        seen[a], inner[b], edges[c] = np.uint32(i), np.uint32(i), np.uint32(i)
        a, b, c = a + something, b + (something & (U(1) - at_edge)), c + at_edge
    return int(a), int(b), int(c)


@fused
def _forget(owner: Ints, number: int) -> None:
    for i in range(U(len(owner))):
        owner[i] = -1 if owner[i] == number else owner[i]


@fused
def _find_edges(size: int, owner: Ints, face: Ints, t: Floats, normals: Floats, edge: Flags, bent: Flags) -> None:
    """Mark the pixels beside one of another surface, and those where it bends."""
    width = U(size)
    for row in range(width):
        for column in range(width):
            i = row * width + column
            for j, inside in ((i + U(1), column + U(1) < width), (i + width, row + U(1) < width)):
                if not inside or (owner[i] == owner[j] and face[i] == face[j]):
                    continue
                if owner[i] == owner[j]:
                    turn = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
                    if abs(t[i] - t[j]) <= F(0.03) * min(t[i], t[j]):
                        if turn >= F(0.8):
                            continue
                        if turn >= F(0.5):
                            bent[i] = bent[j] = True
                            continue
                edge[i] = edge[j] = bent[i] = bent[j] = True


def _smooth_edges(
    edges: Rows,
    camera: Camera,
    palette: Palette,
    boxes: Sequence[Box],
    hits: Hits,
    ground: Ground | None,
    open_: tuple[Floats, Floats],
    colors: Floats,
    cover: Floats,
) -> None:
    """Write light and cover of the pixels at edges, as means of four rays each.

    Args:
        boxes: around the pixels that each solid may touch.
        open_: of each pixel the shares of the sky and the lamp that are seen.
    """
    n, objects = 4 * len(edges), palette.objects
    rays = np.empty((n, 2), np.float32)
    _split(edges, hits.rays, _SUBPIXELS / F(camera.focal), rays)
    fine, rows = Hits(rays), np.empty(n, np.uint32)
    for number, (placed, box) in enumerate(zip(objects, boxes, strict=True)):
        if n_inside := _inside(edges, camera.size, box, rows):
            fine.trace(number, placed, rows[:n_inside])
    if ground is not None:
        fine.lay(len(objects), ground)
    sky, lamp = np.ones(n, np.float32), np.ones(n, np.float32)
    n_hit = _take_from_neighbours(
        *(edges, camera.size, fine.owner, fine.t, hits.owner, hits.t, *open_, sky, lamp, rows),
    )
    light_there = np.zeros((n, 3), np.float32)
    palette.paint(rows[:n_hit], fine, sky, lamp, light_there)
    _mean_of_four(edges, fine.owner, light_there, colors, cover)


@fused
def _split(edges: Rows, rays: Floats, subpixels: Floats, fine: Floats) -> None:
    """Write the four rays (4 M, 2) of each pixel at an edge."""
    for e in range(U(len(edges))):
        i = U(edges[e])
        for k in range(U(4)):
            j = U(4) * e + k
            fine[j, 0], fine[j, 1] = rays[i, 0] + subpixels[k, 0], rays[i, 1] + subpixels[k, 1]


@fused
def _inside(edges: Rows, size: int, box: Box, rows: Rows) -> int:
    """Write the numbers of the rays of the edges' pixels in a box; return how many they are."""
    n = U(0)
    for e in range(U(len(edges))):
        row, column = int(edges[e]) // size, int(edges[e]) % size
        if box[0] <= row < box[2] and box[1] <= column < box[3]:
            for k in range(U(4)):
                rows[n] = np.uint32(U(4) * e + k)
                n += U(1)
    return int(n)


@fused
def _take_from_neighbours(
    edges: Rows,
    size: int,
    owner: Ints,
    t: Floats,
    all_owner: Ints,
    all_t: Floats,
    all_sky: Floats,
    all_lamp: Floats,
    sky: Floats,
    lamp: Floats,
    rows: Rows,
) -> int:
    """Take the open shares from the one of the nine pixels around that sees the same solid at the nearest depth.

    Returns:
        How many rays hit anything; their numbers are written to `rows`.
    """
    n = U(0)
    for e in range(U(len(edges))):
        row, column = int(edges[e]) // size, int(edges[e]) % size
        for i in range(U(4) * e, U(4) * e + U(4)):
            if owner[i] < 0:
                continue
            rows[n] = np.uint32(i)
            n += U(1)
            best = F(1e9)
            for y in range(max(row - 1, 0), min(row + 2, size)):
                for x in range(max(column - 1, 0), min(column + 2, size)):
                    j = U(y * size + x)
                    off = abs(all_t[j] - t[i])
                    if all_owner[j] == owner[i] and off < best:
                        best, sky[i], lamp[i] = off, all_sky[j], all_lamp[j]
    return int(n)


@fused
def _mean_of_four(edges: Rows, owner: Ints, fine: Floats, colors: Floats, cover: Floats) -> None:
    """Write the mean light, and the share that has something, of the four rays of each pixel at an edge."""
    for e in range(U(len(edges))):
        i, first = U(edges[e]), U(4) * e
        red, green, blue, n = ZERO, ZERO, ZERO, ZERO
        for j in range(first, first + U(4)):
            red += min(fine[j, 0], _BRIGHTEST)
            green += min(fine[j, 1], _BRIGHTEST)
            blue += min(fine[j, 2], _BRIGHTEST)
            n += F(owner[j] >= 0)
        colors[i, 0], colors[i, 1], colors[i, 2] = red * F(0.25), green * F(0.25), blue * F(0.25)
        cover[i] = n * F(0.25)
