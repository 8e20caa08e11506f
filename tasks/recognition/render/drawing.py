"""Draws solids before a camera by rays: what is seen, how it is lit, and smooth edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.recognition.render.composition import Camera, Ground, Light, Placed
from tasks.recognition.render.hits import Hits, pixel_rays
from tasks.recognition.render.occlusion import occlusion
from tasks.recognition.render.shading import Palette

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Rows = NDArray[np.uint32]

F = np.float32
U = np.uint64
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
    n, size = camera.size * camera.size, camera.size
    hits = Hits(pixel_rays(camera))
    regions = [placed.region(camera) for placed in objects]
    n_whole = [
        int(hits.add(number, placed, region, camera).sum())
        for number, (placed, region) in enumerate(zip(objects, regions, strict=True))
    ]
    hits.finish(objects, regions, ground)
    edge = np.zeros(n, np.bool_)
    _find_edges(size, hits.owner, hits.face, hits.t, hits.normals, edge)
    seen = np.flatnonzero(hits.owner >= 0).astype(np.uint32)
    sky, lamp = occlusion(seen, hits, size, objects, ground, light, rng)
    colors, cover = np.zeros((n, 3), np.float32), np.zeros(n, np.float32)
    inner = seen[~edge[seen]]
    palette = Palette.of(objects, ground, light)
    palette.paint(inner, hits, regions, sky, lamp, colors)
    cover[inner] = 1
    if edge.any():
        edges = np.flatnonzero(edge).astype(np.uint32)
        _smooth_edges(edges, camera, palette, regions, hits, ground, (sky, lamp), colors, cover)
    owner = np.where(hits.owner == len(objects), np.int32(-1), hits.owner).reshape(size, size)
    return Drawing(colors.reshape(size, size, 3), cover.reshape(size, size), owner, n_whole)


@fused
def _find_edges(size: int, owner: Ints, face: Ints, t: Floats, normals: Floats, edge: NDArray[np.bool_]) -> None:
    """Mark the pixels beside one of another surface."""
    width = U(size)
    for row in range(width):
        for column in range(width):
            i = row * width + column
            for j, inside in ((i + U(1), column + U(1) < width), (i + width, row + U(1) < width)):
                if not inside or (owner[i] == owner[j] and face[i] == face[j]):
                    continue
                if owner[i] == owner[j]:
                    turn = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
                    if turn >= F(0.5) and abs(t[i] - t[j]) <= F(0.03) * t[i]:
                        continue
                edge[i] = edge[j] = True


def _smooth_edges(
    edges: Rows,
    camera: Camera,
    palette: Palette,
    regions: Sequence[Rows],
    hits: Hits,
    ground: Ground | None,
    open_: tuple[Floats, Floats],
    colors: Floats,
    cover: Floats,
) -> None:
    """Write light and cover of the pixels at edges, as means of four rays each.

    Args:
        open_: of each pixel the shares of the sky and the lamp that are seen.
    """
    n, objects = len(edges), palette.objects
    rays = (hits.rays[edges][:, None] + _SUBPIXELS / F(camera.focal)).reshape(-1, 2)
    fine = Hits(rays)
    slot = np.full(len(hits.owner), -1, np.int32)
    slot[edges] = np.arange(n, dtype=np.int32)
    fine_regions = []
    for number, (placed, region) in enumerate(zip(objects, regions, strict=True)):
        pixels = slot[region]
        pixels = pixels[pixels >= 0]
        fine_regions.append((pixels[:, None] * 4 + np.arange(4)).reshape(-1).astype(np.uint32))
        if len(pixels):
            fine.add(number, placed, fine_regions[-1])
    fine.finish(objects, fine_regions, ground)
    sky, lamp = np.ones(4 * n, np.float32), np.ones(4 * n, np.float32)
    _take_from_neighbours(edges, camera.size, fine.owner, fine.t, hits.owner, hits.t, *open_, sky, lamp)
    light_there = np.zeros((4 * n, 3), np.float32)
    rows = np.flatnonzero(fine.owner >= 0).astype(np.uint32)
    palette.paint(rows, fine, fine_regions, sky, lamp, light_there)
    colors[edges] = np.minimum(light_there, _BRIGHTEST).reshape(n, 4, 3).mean(axis=1)
    cover[edges] = (fine.owner >= 0).reshape(n, 4).mean(axis=1)


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
) -> None:
    """Take the open shares from the one of the nine pixels around that sees the same solid at the nearest depth."""
    for e in range(len(edges)):
        row, column = int(edges[e]) // size, int(edges[e]) % size
        for i in range(4 * e, 4 * e + 4):
            best = F(1e9)
            if owner[i] < 0:
                continue
            for y in range(max(row - 1, 0), min(row + 2, size)):
                for x in range(max(column - 1, 0), min(column + 2, size)):
                    j = y * size + x
                    off = abs(all_t[j] - t[i])
                    if all_owner[j] == owner[i] and off < best:
                        best, sky[i], lamp[i] = off, all_sky[j], all_lamp[j]
