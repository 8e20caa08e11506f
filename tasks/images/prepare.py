"""Prepares every image for inference: upright, 8-bit RGB, of bounded size."""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.images.images import read_rgb
from tasks.images.params import PrepareParams

Rgb = NDArray[np.uint8]


def bounded_size(width: int, height: int, params: PrepareParams) -> tuple[int, int]:
    """Return (width, height) in proportion, no side and no product above the bounds; never larger than given."""
    share = min(1.0, params.max_side / max(width, height), math.sqrt(params.max_pixels / (width * height)))
    if share == 1.0:
        return width, height
    # A side of one pixel stays: what is then too long for max_pixels is cut by max_side alone.
    return max(1, int(width * share)), max(1, int(height * share))


def bounded(rgb: Rgb, params: PrepareParams) -> Rgb:
    """Return (H, W, 3) shrunk to the bounds by averaging over areas; the same array where it fits already."""
    height, width = rgb.shape[:2]
    size = bounded_size(width, height, params)
    if size == (width, height):
        return rgb
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def read_prepared(path: Path, params: PrepareParams, min_side: int | None) -> Rgb:
    """Return the image in a file, prepared: (H, W, 3) uint8 RGB.

    Args:
        path: of the file.
        params: the bounds.
        min_side: of what the image is shrunk to next; a JPEG is then decoded at a fraction of its size as long as
            twice this is left. None: decoded in full.

    Raises:
        ImageError: the file cannot be read, is empty, truncated, too large or no image.
    """
    return bounded(read_rgb(path, min_side=min_side), params)
