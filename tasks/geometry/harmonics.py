"""Real spherical harmonics up to degree 3, in the order and with the signs of 3DGS.

Source: 3DGS (arXiv:2308.04079); constants as in every implementation of it, e.g. upstream gsplat.
Plain functions of numbers or arrays; the CPU's rasteriser compiles them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
C3_0, C3_1, C3_2, C3_3, C3_5 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    1.445305721320277,
)


def sh_basis(x: Any, y: Any, z: Any, degree: int, basis: Doubles) -> None:
    """Write the harmonics of a unit vector into basis (16,), or of arrays (S,) into basis (16, S)."""
    basis[0] = C0
    if degree > 0:
        basis[1], basis[2], basis[3] = -C1 * y, C1 * z, -C1 * x
    if degree > 1:
        basis[4], basis[5] = C2[0] * x * y, C2[1] * y * z
        basis[6] = C2[2] * (2 * z * z - x * x - y * y)
        basis[7], basis[8] = C2[3] * x * z, C2[4] * (x * x - y * y)
    if degree > 2:
        basis[9], basis[10] = C3_0 * y * (3 * x * x - y * y), C3_1 * x * y * z
        basis[11] = C3_2 * y * (4 * z * z - x * x - y * y)
        basis[12] = C3_3 * z * (2 * z * z - 3 * x * x - 3 * y * y)
        basis[13] = C3_2 * x * (4 * z * z - x * x - y * y)
        basis[14], basis[15] = C3_5 * z * (x * x - y * y), C3_0 * x * (x * x - 3 * y * y)


def sh_basis_at(directions: Doubles, degree: int) -> Doubles:
    """Return the harmonics of unit directions (S, 3), (S, (degree + 1) ** 2)."""
    basis = np.zeros((16, len(directions)))
    x, y, z = directions.T
    sh_basis(x, y, z, degree, basis)
    return basis[: (degree + 1) ** 2].T


def sh_slope(x: float, y: float, z: float, degree: int, w: Doubles) -> tuple[float, float, float]:
    """Return the gradient by x, y and z of the sum of w (16,) times the basis."""
    gx = gy = gz = 0.0
    if degree > 0:
        gx, gy, gz = -C1 * w[3], -C1 * w[1], C1 * w[2]
    if degree > 1:
        gx += C2[0] * y * w[4] - 2 * C2[2] * x * w[6] + C2[3] * z * w[7] + 2 * C2[4] * x * w[8]
        gy += C2[0] * x * w[4] + C2[1] * z * w[5] - 2 * C2[2] * y * w[6] - 2 * C2[4] * y * w[8]
        gz += C2[1] * y * w[5] + 4 * C2[2] * z * w[6] + C2[3] * x * w[7]
    if degree > 2:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        gx += 6 * C3_0 * xy * w[9] + C3_1 * yz * w[10] - 2 * C3_2 * xy * w[11] - 6 * C3_3 * xz * w[12]
        gx += C3_2 * (4 * zz - 3 * xx - yy) * w[13] + 2 * C3_5 * xz * w[14] + 3 * C3_0 * (xx - yy) * w[15]
        gy += 3 * C3_0 * (xx - yy) * w[9] + C3_1 * xz * w[10] + C3_2 * (4 * zz - xx - 3 * yy) * w[11]
        gy += -6 * C3_3 * yz * w[12] - 2 * C3_2 * xy * w[13] - 2 * C3_5 * yz * w[14] - 6 * C3_0 * xy * w[15]
        gz += C3_1 * xy * w[10] + 8 * C3_2 * yz * w[11] + 3 * C3_3 * (2 * zz - xx - yy) * w[12]
        gz += 8 * C3_2 * xz * w[13] + C3_5 * (xx - yy) * w[14]
    return gx, gy, gz
