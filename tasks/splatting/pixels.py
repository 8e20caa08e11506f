"""Pictures made smaller before they are written."""

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 95


def bounded(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Return (width, height) of a picture shrunk, never enlarged, so that its longest side is at most `max_side`."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrunk(rgb: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) with its longest side at most `max_side`, as an array of its own."""
    height, width = rgb.shape[:2]
    size = bounded(width, height, max_side)
    if size == (width, height):
        return rgb.copy()
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
