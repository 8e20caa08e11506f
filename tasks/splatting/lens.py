"""Takes the distortion of a lens out of a picture."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lens:
    """A camera with distortion, as COLMAP's OPENCV and OPENCV_FISHEYE have it; pixel centres lie at 0.5."""

    width: int  # pixels
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]  # k1 k2 p1 p2 k3; of a fisheye: k1 k2 k3 k4
    fisheye: bool

    def resized(self, width: int, height: int) -> "Lens":
        """Return the lens of the same picture at another size; distortion does not depend on it."""
        x, y = width / self.width, height / self.height
        return Lens(width, height, self.fx * x, self.fy * y, self.cx * x, self.cy * y, self.distortion, self.fisheye)

    @property
    def plain(self) -> bool:
        """Return whether there is nothing to take out."""
        return not self.fisheye and not any(self.distortion)


@dataclass(frozen=True, slots=True)
class Undistorter:
    """Where each pixel of the straight picture comes from, and the intrinsics that picture has."""

    columns: NDArray[np.float32]  # (H, W)
    rows: NDArray[np.float32]  # (H, W)
    fx: float
    fy: float
    cx: float
    cy: float

    def picture(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the straight picture, (H, W, 3)."""
        return np.asarray(cv2.remap(rgb, self.columns, self.rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))

    def mask(self, white: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the straight mask, (H, W); what lies outside the picture does not count."""
        return np.asarray(cv2.remap(white, self.columns, self.rows, cv2.INTER_NEAREST, borderValue=0))


def undistorter(lens: Lens) -> Undistorter:
    """Return how to make pictures of a lens straight, zoomed in until no pixel lies outside what it saw."""
    size = (lens.width, lens.height)
    matrix: Matrix = np.array([[lens.fx, 0, lens.cx - 0.5], [0, lens.fy, lens.cy - 0.5], [0, 0, 1]])  # OpenCV's centres
    distortion, straight = np.array(lens.distortion), np.eye(3)
    if lens.fisheye:
        new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(matrix, distortion, size, straight, balance=0.0)
        columns, rows = cv2.fisheye.initUndistortRectifyMap(matrix, distortion, straight, new, size, cv2.CV_32FC1)
    else:
        new, _ = cv2.getOptimalNewCameraMatrix(matrix, distortion, size, 0.0)
        columns, rows = cv2.initUndistortRectifyMap(matrix, distortion, straight, new, size, cv2.CV_32FC1)
    return Undistorter(
        np.asarray(columns, np.float32),
        np.asarray(rows, np.float32),
        float(new[0, 0]),
        float(new[1, 1]),
        float(new[0, 2]) + 0.5,
        float(new[1, 2]) + 0.5,
    )
