"""Brings an image to the square that a detector sees, in training and where it is used.

A copy of this file is kept with every detector in MLflow and used there, so it imports nothing of this project.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

GREY = 114
"""Of what lies beside an image."""
SPARE = 1.25
"""Of the pixels that the network sees, how many are kept of an image: what training enlarges has them to show."""


def least_side(size: int) -> int:
    """Return how many pixels an image must have on its shorter side for a square of `size` to be made of it."""
    return round(SPARE * size)


def shrunk(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of at most a quarter more pixels on its longer side than the square has."""
    scale = round(SPARE * size) / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def squared(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the square (S, S, 3): the image from its top left corner on, its longer side filling it, then grey."""
    small = shrunk(pixels, size)
    scale = size / max(small.shape[:2])
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    drawn = cv2.warpAffine(small, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY))
    return drawn.astype(np.uint8, copy=False)
