"""Pinhole cameras, as all parts of the splatting pipeline use them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Camera:
    """One pinhole camera at one place.

    Axes as OpenCV and COLMAP have them: x right, y down, z into the image. The centre of the pixel in column 0 of
    row 0 is at (0.5, 0.5).
    """

    name: str  # of its image, with its suffix, relative to the folder of images
    width: int  # pixels
    height: int  # pixels
    fx: float  # pixels
    fy: float  # pixels
    cx: float  # pixels
    cy: float  # pixels
    world_to_camera: NDArray[np.float64]  # (4, 4), rigid; the last row is 0 0 0 1

    @property
    def center(self) -> NDArray[np.float64]:
        """Return where the camera stands in the world, (3,)."""
        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return -rotation.T @ translation

    def resized(self, width: int, height: int) -> "Camera":
        """Return the camera of the same image at another size."""
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y)
