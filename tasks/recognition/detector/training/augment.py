"""Cuts, scales and colours scenes anew in every epoch; a pure function of seed, epoch and sample."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.recognition.detector.squaring import GREY
from tasks.recognition.detector.training.scenes import Rgb, Scenes
from tasks.recognition.params import DetectorParams

_LEAST_SEEN = 0.35  # of a box: what is cut off further is no example of its part
_LEAST_SIDE = 3.0  # pixels
_WHOLE_SHARE = 0.2  # of the epochs


@dataclass(frozen=True, slots=True)
class Tile:
    """One scene on the square that the network sees."""

    sample: int
    zoom: float  # 1: its longer side fills the tile
    focus: tuple[float, float]  # place on the scene, shares of its longer side, that comes ...
    place: tuple[float, float]  # ... to lie here on the tile, shares of its side, as far as the scene reaches
    flip: bool
    gain: tuple[float, float, float]  # of red, green and blue
    shift: float  # added to all three
    corner: tuple[float, float]  # left and top of the tile, shares of the square
    side: float  # of the tile, share of the square


PLAIN = (1.0, 1.0, 1.0)


def plain(sample: int) -> list[Tile]:
    """Return a scene as it is, its longer side filling the square from the top left corner."""
    return [Tile(sample, 1.0, (0.0, 0.0), (0.0, 0.0), False, PLAIN, 0.0, (0.0, 0.0), 1.0)]


def plan(seed: int, epoch: int, sample: int, scenes: Scenes, params: DetectorParams) -> list[Tile]:
    """Return the tiles that one image of an epoch is made of: one, or four for a mosaic.

    Args:
        seed, epoch, sample: the same three give the same tiles.
        scenes: where the parts are, and from which the others of a mosaic are drawn.
        params: how far images are changed.
    """
    rng = np.random.default_rng((seed, epoch, sample))
    zoom = params.image_size / trained_size(params, epoch)
    if rng.random() >= params.mosaic:
        return [_tile(sample, rng, scenes, params, zoom, (0.0, 0.0), 1.0)]
    samples = [sample, *(int(other) for other in rng.integers(0, len(scenes), 3))]
    corners = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    return [_tile(each, rng, scenes, params, zoom, corner, 0.5) for each, corner in zip(samples, corners, strict=True)]


def trained_size(params: DetectorParams, epoch: int) -> int:
    """Return how many pixels a side has of what is trained on in an epoch (from 1).

    The last epochs see whole scenes, as they are found on: parts larger than a window, and all the ground there is.
    """
    whole = epoch > (1 - _WHOLE_SHARE) * params.num_epochs
    return params.image_size if whole or not params.trained_window else params.trained_window


def _tile(
    sample: int,
    rng: np.random.Generator,
    scenes: Scenes,
    params: DetectorParams,
    zoom: float,
    corner: tuple[float, float],
    side: float,
) -> Tile:
    zoom *= float((1 + params.scale_jitter) ** rng.uniform(-1, 1))
    focus = _focus(scenes, sample, rng)
    place = float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.25, 0.75))
    flip = params.horizontal_flip and bool(rng.random() < 0.5)
    tint = rng.uniform(-1, 1, 3) if rng.random() < 0.5 else np.repeat(rng.uniform(-1, 1), 3)
    red, green, blue = (float(value) for value in 1 + params.color_jitter * tint)
    shift = float(rng.uniform(-1, 1)) * 64 * params.color_jitter
    return Tile(sample, zoom, focus, place, flip, (red, green, blue), shift, corner, side)


def _focus(scenes: Scenes, sample: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the middle of one of the parts on a scene; of one without parts, any place."""
    boxes = scenes.boxes[sample]
    number = int(rng.integers(0, max(len(boxes), 1)))
    x, y = rng.random(2)
    if not len(boxes):
        return float(x), float(y)
    left, top, right, bottom = boxes[number]
    return float(left + right) / 2, float(top + bottom) / 2


def pixels_of(tiles: list[Tile], scenes: Scenes, size: int) -> Rgb:
    """Return the square (S, S, 3) that the tiles make."""
    square = np.full((size, size, 3), GREY, np.uint8)
    for tile in tiles:
        side = round(tile.side * size)
        left, top = (round(value * size) for value in tile.corner)
        pixels = scenes.read(tile.sample)
        matrix = _matrix(tile, pixels.shape[1], pixels.shape[0], side)
        # Shrinking by more than half is rare: linear interpolation is enough.
        drawn = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY))
        square[top : top + side, left : left + side] = _coloured(drawn.astype(np.uint8, copy=False), tile)
    return square


def _coloured(pixels: Rgb, tile: Tile) -> Rgb:
    if tile.gain == PLAIN and tile.shift == 0:
        return pixels
    levels = np.arange(256)[:, None] * np.array(tile.gain) + tile.shift
    table = np.clip(levels, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    return cv2.LUT(pixels, table).astype(np.uint8, copy=False)


def _matrix(tile: Tile, width: float, height: float, side: int) -> NDArray[np.float32]:
    """Return the affine map (2, 3) from places on an image of that size to places on its tile, in pixels.

    A scene that is larger than its tile covers all of it; a smaller one lies on it whole.
    """
    longer = max(width, height)
    scale = side * tile.zoom / longer
    starts = []
    for focus, place, length in zip(tile.focus, tile.place, (width, height), strict=True):
        spare = side - scale * length
        wanted = place * side - scale * focus * longer
        starts.append(min(max(wanted, min(spare, 0)), max(spare, 0)))
    left, top = starts
    if tile.flip:
        return np.array([[-scale, 0, side - left], [0, scale, top]], np.float32)
    return np.array([[scale, 0, left], [0, scale, top]], np.float32)


def boxes_of(tiles: list[Tile], scenes: Scenes, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what can be seen on the square: boxes (M, 4) in its pixels, and class numbers (M,).

    Boxes of which too little is left, and those of crowds, are left out.
    """
    boxes, labels = [], []
    for tile in tiles:
        image = scenes.images[tile.sample]
        longer = max(image.width, image.height)
        side = round(tile.side * size)
        (fx, _, dx), (_, fy, dy) = _matrix(tile, image.width / longer, image.height / longer, side)
        moved = scenes.boxes[tile.sample] * (fx, fy, fx, fy) + (dx, dy, dx, dy)
        moved = np.stack([moved[:, [0, 2]].min(1), moved[:, 1], moved[:, [0, 2]].max(1), moved[:, 3]], axis=1)
        seen = moved.clip(0, side)
        sides = seen[:, 2:] - seen[:, :2]
        whole = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        keep = (np.prod(sides, axis=1) >= _LEAST_SEEN * whole) & (sides.min(1) >= _LEAST_SIDE)
        keep &= ~scenes.crowds[tile.sample]
        boxes.append(seen[keep] + np.array([round(value * size) for value in tile.corner] * 2))
        labels.append(scenes.labels[tile.sample][keep])
    return np.concatenate(boxes).astype(np.float32), np.concatenate(labels)
