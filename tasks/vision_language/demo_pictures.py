"""Draws the two pictures that the demo asks about."""

from pathlib import Path

import cv2
import numpy as np

from tasks.base.workspace import write_atomic

_GROUND, _RED, _BLUE = (218, 228, 232), (47, 55, 179), (179, 95, 47)  # BGR


def make_demo_pictures(folder: Path) -> None:
    """Write red-square.png and blue-disc.png, 320 x 240 pixels, into a folder.

    Args:
        folder: exists.

    Raises:
        StorageError: it cannot be written.
    """
    square, disc = (np.full((240, 320, 3), _GROUND, np.uint8) for _ in range(2))
    cv2.rectangle(square, (100, 60), (220, 180), _RED, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(disc, (160, 120), 70, _BLUE, cv2.FILLED, cv2.LINE_AA)
    for name, image in (("red-square.png", square), ("blue-disc.png", disc)):
        write_atomic(folder / name, cv2.imencode(".png", image)[1].tobytes())
