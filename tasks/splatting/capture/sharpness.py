"""Measures on small grey copies how sharp, how dark and how similar images are."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SMALL = 480
"""Longest side of the copies, pixels: finer detail is noise and compression."""

BLACK_LEVEL = 12.0
"""An image whose brightest hundredth is below this grey level is black."""

FLAT_SPREAD = 2.0
"""An image whose grey levels, blurred, spread less (standard deviation) shows nothing but noise."""

SAME_SHIFT = 0.002
"""Images whose corners moved less than this share of the longest side (median) show the same.

Measured: a camera on a tripod stays below 0.0002 through noise (standard deviation 25) and H.264 at crf 38; motion is
told to a tenth from 0.0003 on, and 0.002 is 3 px of 1600, too little to see depth by.
"""

_N_CORNERS = 200
_MIN_TRACKED = 12
_SAME_LEVEL = 4.0  # grey levels, mean difference of copies made even and blurred, where no corner can be followed

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageQuality:
    """What one image is like."""

    sharpness: float  # variance of the Laplacian
    grey: Grey  # (h, w), longest side at most SMALL
    flaw: str  # "black", "flat" or "": usable


def look(rgb: NDArray[np.uint8]) -> ImageQuality:
    """Return what an image (H, W, 3) is like."""
    height, width = rgb.shape[:2]
    scale = min(1.0, SMALL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
    flaw = ""
    if np.percentile(grey, 99) < BLACK_LEVEL:
        flaw = "black"
    elif cv2.GaussianBlur(grey, (0, 0), 3).std() < FLAT_SPREAD:
        flaw = "flat"
    return ImageQuality(float(cv2.Laplacian(grey, cv2.CV_64F).var()), grey, flaw)


def shift(before: Grey, after: Grey) -> float | None:
    """Return how far the corners of one image moved in the other, median, as a share of the longest side.

    None: too few could be followed, the images show different things, or have no corners.
    """
    before, after = _even(before), _even(after)
    corners = cv2.goodFeaturesToTrack(before, _N_CORNERS, 0.01, 8)
    if corners is None or len(corners) < _MIN_TRACKED or before.shape != after.shape:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.zeros_like(corners))
    kept = found[:, 0] == 1
    if kept.sum() < max(_MIN_TRACKED, len(corners) // 4):
        return None
    distances = np.linalg.norm((moved - corners)[kept, 0], axis=1)
    return float(np.median(distances)) / max(before.shape)


def _even(grey: Grey) -> Grey:
    """Return a copy of one mean and spread: exposure may have changed between two images."""
    mean, spread = cv2.meanStdDev(grey)
    scale = 50 / max(float(spread[0, 0]), 1.0)
    return np.asarray(np.clip((grey - float(mean[0, 0])) * scale + 128, 0, 255), np.uint8)


def same_view(before: Grey, after: Grey) -> bool:
    """Return whether two images were taken from the same place, as far as noise lets one tell."""
    if before.shape != after.shape:
        return False
    moved = shift(before, after)
    if moved is not None:
        return moved < SAME_SHIFT
    blurred = [cv2.GaussianBlur(_even(grey), (0, 0), 3).astype(np.float32) for grey in (before, after)]
    return float(np.abs(blurred[0] - blurred[1]).mean()) < _SAME_LEVEL
