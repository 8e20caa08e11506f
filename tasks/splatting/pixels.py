"""Pictures whose cameras are known, and pictures made smaller before they are written."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.classification.images import read_rgb
from tasks.workspace import write_atomic

JPEG_QUALITY = 95

_APP1, _START_OF_SCAN = 0xE1, 0xDA  # the second bytes of JPEG's markers


def read_stored(path: Path) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) RGB as its pixels are stored: a camera was found for those, whatever EXIF says.

    Raises:
        ImageError: it cannot be read.
    """
    return read_rgb(path, upright=False)


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


def drop_exif(path: Path) -> None:
    """Take the EXIF block out of a JPEG file; its pixels stay as they are, bit for bit.

    Source: JPEG (ITU-T T.81) annex B.1.1.3, Exif 2.3 section 4.7.2.
    """
    data = path.read_bytes()
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != _START_OF_SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != _APP1 or data[at + 4 : at + 10] != b"Exif\0\0":
            kept.append(data[at:end])
        at = end
    if at != sum(map(len, kept)):
        write_atomic(path, b"".join([*kept, data[at:]]))
