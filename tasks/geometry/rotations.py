"""Rotations as quaternions w x y z and as matrices."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

N = TypeVar("N", bound=Any)


def cross(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the vector product (3,) of two vectors: of one pair, numpy's own takes five times as long."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def rotation_entries(w: N, x: N, y: N, z: N) -> tuple[N, N, N, N, N, N, N, N, N]:
    """Return the entries, row by row, of the rotation of a unit quaternion of numbers, arrays or tensors."""
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )


def rotation_matrices(quats: Tensor) -> Tensor:
    """Return (N, 3, 3) rotations.

    Args:
        quats: (N, 4) w x y z, of any length but zero.
    """
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    return torch.stack(rotation_entries(w, x, y, z), dim=-1).reshape(-1, 3, 3)


def rotation_matrix(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation (3, 3) of a unit quaternion (4,)."""
    return np.array(rotation_entries(*quaternion)).reshape(3, 3)


def quaternion_of(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return w x y z of unit length, w not negative, of a rotation (3, 3).

    The eigenvector of the largest eigenvalue: no case distinction, and the nearest one if the matrix is inexact.

    Source: Bar-Itzhack 2000, "New method for extracting the quaternion from a rotation matrix".
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    vector: NDArray[np.float64] = np.linalg.eigh(k)[1][:, -1]
    return vector if vector[0] >= 0 else -vector
