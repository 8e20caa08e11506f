"""Alters a rendered view as a camera and a detector's box would; a function of (seed, epoch, sample) alone."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.recognition.params import IndexParams

Rgb = NDArray[np.uint8]
_NOISE = 6.0
"""Largest deviation of the noise of a sensor, grey levels of 255."""


def augmented(view: Rgb, params: IndexParams, epoch: int, sample: int) -> Rgb:
    """Return the view, (S, S, 3), cut out imprecisely, in other light, perhaps blurred and partly hidden.

    Args:
        view: (H, W, 3) RGB.
        params: how much of each, the side S of each epoch, and the seed.
        epoch, sample: which alteration; the same numbers give the same pixels in any process.
    """
    rng = np.random.default_rng((params.seed, epoch, sample))
    side = params.side_in(epoch)
    image = _recoloured(_cut(view, side, params, rng), params.color_jitter, rng)
    if rng.random() < params.blur:
        sigma = rng.uniform(0.3, 1.2) * side / 96
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    if rng.random() < params.occlusion:
        _hide(image, rng)
    return _noisy(image, rng)


def _cut(view: Rgb, size: int, params: IndexParams, rng: np.random.Generator) -> Rgb:
    """Return the window that a box around the part would be, a little off in place, size, shape and angle."""
    jitter, height, width = params.crop_jitter, *view.shape[:2]
    scale = np.exp(rng.uniform(-jitter, jitter)) * np.exp(rng.uniform(-jitter, jitter, 2) / 3)
    shift = rng.uniform(-jitter, jitter, 2) / 2
    angle = np.radians(rng.uniform(-params.turn_deg, params.turn_deg))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Output pixel -> input pixel, both counted from their middles.
    inverse = turn * (np.array([width, height])[:, None] / size) * scale[None, :]
    middle = np.array([width - 1, height - 1]) / 2 + shift * (width, height)
    offset = middle - inverse @ np.full(2, (size - 1) / 2)
    matrix = np.hstack([inverse, offset[:, None]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(view, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, dtype=np.uint8)


def _recoloured(image: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Return the image at another brightness, contrast and tint, sometimes without its colours."""
    if rng.random() < strength / 2:
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    gains = np.exp(rng.uniform(-strength, strength) + rng.uniform(-strength, strength, 3) / 2)
    contrast, mean = np.exp(rng.uniform(-strength, strength)), float(cv2.mean(image)[1])
    levels = ((np.arange(256) - mean) * contrast + mean)[:, None] * gains  # (256, 3): one look-up for all of it
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), dtype=np.uint8)


def _hide(image: Rgb, rng: np.random.Generator) -> None:
    """Cover a rectangle of up to 15 % of the area, most often at an edge, as another part in front would."""
    side = image.shape[0]
    width, height = (int(side * share) for share in rng.uniform(0.1, 0.39, 2))
    x, y = (int(rng.uniform(-0.1, 1.0) * side) for _ in range(2))
    image[max(y, 0) : y + height, max(x, 0) : x + width] = rng.integers(0, 256, 3)


def _noisy(image: Rgb, rng: np.random.Generator) -> Rgb:
    """Return the image with noise, cut out of a sheet of it: drawing anew takes longer than all the rest."""
    side, deviation = image.shape[0], rng.uniform(0, _NOISE)
    sheet = _sheet(2 * side)
    x, y = rng.integers(0, side, 2)
    noise = (sheet[y : y + side, x : x + side] * np.float32(deviation)).astype(np.int16)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@cache
def _sheet(side: int) -> NDArray[np.float32]:
    """Return (side, side, 3) numbers of deviation 1."""
    return np.random.default_rng(0).standard_normal((side, side, 3), dtype=np.float32)
