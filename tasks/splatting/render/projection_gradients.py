"""CPU kernels: gradients from projected splats back to Gaussians and the pose.

Forward, for each Gaussian with unit quaternion q, lengths l, and the camera's rotation W (names as in the scratch):
A = W R(q) diag(l), M = J A, C = M M^T. A loss L with gradient G by C, symmetric, where by_xx = G_xx, by_xy = 2 G_xy and
by_yy = G_yy, then has

- by M: 2 G M, so rows 2 by_xx m_x + by_xy m_y and 2 by_yy m_y + by_xy m_x;
- by A: J^T (by M), and by J: (by M) A^T, of which the entries of J that depend on the place are taken;
- with B = W^T (by A): by R: B diag(l); by log l_k: l_k times the dot product of the columns k of B and R;
- by W: (by A) (R diag(l))^T;
- by q: the derivative of R's entries, less its part along q, over q's length, as R takes q / |q|.
"""

import math

import numpy as np

from tasks.geometry import harmonics
from tasks.geometry.harmonics import C0
from tasks.geometry.jit import Doubles, Floats, kernel
from tasks.splatting.render.projection_kernels import (
    ACROSS,
    AXES,
    BLOCK,
    BLUE,
    BLUR,
    DOWN,
    FX,
    FY,
    GREEN,
    HIGH_X,
    HIGH_Y,
    LENGTHS,
    LOG2_E,
    LOG_OPACITY,
    LOW_X,
    LOW_Y,
    N_SCRATCH,
    PLANE_X,
    PLANE_Y,
    RED,
    SHEAR,
    T0,
    direction,
    inside,
    roots,
    sh_basis,
    sharp_of,
    slopes_of,
)

# Of the scratch `g`: the gradient by the axes in the camera from 0 on, row by row; by the Gaussian's rotation.
BY_ROTATION, N_BY_SCRATCH = 9, 18

sh_slope = kernel(harmonics.sh_slope)


@kernel
def _colors_back(
    i: int,
    tensors: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    view: Doubles,
    degree: int,
    splats: Floats,
    by_splats: Floats,
    out: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    basis: Doubles,
    w: Doubles,
    pose: Doubles,
) -> None:
    """Add the colour's gradient to sh0, shN, means and pose."""
    means, shN, by_means, by_sh0, by_shN = tensors[0], tensors[5], out[0], out[4], out[5]
    red = float(by_splats[i, RED]) if splats[i, RED] > 0 else 0.0
    green = float(by_splats[i, GREEN]) if splats[i, GREEN] > 0 else 0.0
    blue = float(by_splats[i, BLUE]) if splats[i, BLUE] > 0 else 0.0
    by_sh0[i, 0, 0], by_sh0[i, 0, 1], by_sh0[i, 0, 2] = C0 * red, C0 * green, C0 * blue
    if degree == 0:
        return
    x, y, z, length = direction(means, i, view)
    sh_basis(x, y, z, degree, basis)
    for k in range((degree + 1) ** 2 - 1):
        w[k + 1] = red * shN[i, k, 0] + green * shN[i, k, 1] + blue * shN[i, k, 2]
        by_shN[i, k, 0], by_shN[i, k, 1] = basis[k + 1] * red, basis[k + 1] * green
        by_shN[i, k, 2] = basis[k + 1] * blue
    gx, gy, gz = sh_slope(x, y, z, degree, w)
    along = x * gx + y * gy + z * gz
    gx, gy, gz = (gx - along * x) / length, (gy - along * y) / length, (gz - along * z) / length
    by_means[i, 0] += gx
    by_means[i, 1] += gy
    by_means[i, 2] += gz
    for row in range(3):  # the camera stands at -R^T t
        pose[T0 + row] += view[3 * row] * gx + view[3 * row + 1] * gy + view[3 * row + 2] * gz
        pose[3 * row] += view[T0 + row] * gx
        pose[3 * row + 1] += view[T0 + row] * gy
        pose[3 * row + 2] += view[T0 + row] * gz


@kernel
def _covariance_back(i: int, by_splats: Floats, s: Doubles, antialiased: bool) -> tuple[float, float, float]:
    """Return the gradient by the covariance xx, xy (once), yy in the plane."""
    sxx, sxy, syy, sharp = sharp_of(s)
    xx, yy = sxx + BLUR, syy + BLUR
    det = sharp + BLUR * (sxx + syy) + BLUR * BLUR
    by_a = 0.5 * LOG2_E * by_splats[i, ACROSS] / det
    by_shear = by_splats[i, SHEAR] / yy
    by_down = 0.5 * LOG2_E * by_splats[i, DOWN] / yy
    by_det = -by_a * yy / det
    by_sharp = 0.0
    if antialiased:  # opacity goes with sqrt(sharp / det)
        by_sharp = 0.5 * LOG2_E * by_splats[i, LOG_OPACITY] / sharp
        by_det -= 0.5 * LOG2_E * by_splats[i, LOG_OPACITY] / det
    return (
        by_det * yy + by_sharp * syy,
        -by_shear - 2 * (by_det + by_sharp) * sxy,
        by_a + (by_shear * sxy - by_down) / yy + by_det * xx + by_sharp * sxx,
    )


@kernel
def _roots_back(
    by_xx: float, by_xy: float, by_yy: float, slopes: Doubles, view: Doubles, s: Doubles, g: Doubles
) -> tuple[float, float, float]:
    """Return the gradient by both slopes and z; write that by the axes in the camera into g (9,)."""
    along_x, along_y = view[FX] * slopes[2], view[FY] * slopes[2]
    by_ax = by_ay = by_sx = by_sy = 0.0  # by the Jacobian's entries, as they are multiplied
    for k in range(3):
        gx = 2 * by_xx * s[PLANE_X + k] + by_xy * s[PLANE_Y + k]
        gy = 2 * by_yy * s[PLANE_Y + k] + by_xy * s[PLANE_X + k]
        by_ax += gx * (s[AXES + k] - slopes[0] * s[AXES + 6 + k])
        by_ay += gy * (s[AXES + 3 + k] - slopes[1] * s[AXES + 6 + k])
        by_sx -= gx * along_x * s[AXES + 6 + k]
        by_sy -= gy * along_y * s[AXES + 6 + k]
        g[k], g[3 + k] = gx * along_x, gy * along_y
        g[6 + k] = -slopes[0] * g[k] - slopes[1] * g[3 + k]
    return by_sx, by_sy, -(by_ax * along_x + by_ay * along_y) * slopes[2]


@kernel
def _axes_back(
    i: int, quats: Floats, view: Doubles, s: Doubles, g: Doubles, by_scales: Floats, by_quats: Floats, pose: Doubles
) -> None:
    """Write the gradient by scales and quats, and add to pose's.

    Args:
        g: (N_BY_SCRATCH,), gradient by the axes in the camera as `_roots_back` leaves it.
    """
    r = g[BY_ROTATION:]
    for k in range(3):
        total = 0.0
        for row in range(3):
            world = view[row] * g[k] + view[3 + row] * g[3 + k] + view[6 + row] * g[6 + k]
            total += world * s[3 * row + k]
            r[3 * row + k] = world * s[LENGTHS + k]
            for other in range(3):
                pose[3 * row + other] += g[3 * row + k] * s[3 * other + k] * s[LENGTHS + k]
        by_scales[i, k] = total * s[LENGTHS + k]
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    unit = 1 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * unit, x * unit, y * unit, z * unit
    gw = 2 * (x * (r[7] - r[5]) + y * (r[2] - r[6]) + z * (r[3] - r[1]))
    gx = 2 * (w * (r[7] - r[5]) + y * (r[1] + r[3]) + z * (r[2] + r[6]) - 2 * x * (r[4] + r[8]))
    gy = 2 * (w * (r[2] - r[6]) + x * (r[1] + r[3]) + z * (r[5] + r[7]) - 2 * y * (r[0] + r[8]))
    gz = 2 * (w * (r[3] - r[1]) + x * (r[2] + r[6]) + y * (r[5] + r[7]) - 2 * z * (r[0] + r[4]))
    along = w * gw + x * gx + y * gy + z * gz
    by_quats[i, 0], by_quats[i, 1] = (gw - along * w) * unit, (gx - along * x) * unit
    by_quats[i, 2], by_quats[i, 3] = (gy - along * y) * unit, (gz - along * z) * unit


@kernel
def _center_back(
    i: int,
    x: float,
    y: float,
    z: float,
    by_slopes: tuple[float, float, float],
    by_center: Floats,
    view: Doubles,
    means: Floats,
    by_means: Floats,
    pose: Doubles,
) -> None:
    """Add the gradient by a Gaussian's place to means' and pose's."""
    along_x, along_y = by_center[i, 0] * view[FX] / z, by_center[i, 1] * view[FY] / z
    if view[LOW_X] < x / z < view[HIGH_X]:  # beyond, the slope in the Jacobian stays the same
        along_x += by_slopes[0] / z
    if view[LOW_Y] < y / z < view[HIGH_Y]:
        along_y += by_slopes[1] / z
    along_z = by_slopes[2] - (along_x * x + along_y * y) / z
    pose[T0] += along_x
    pose[T0 + 1] += along_y
    pose[T0 + 2] += along_z
    for k in range(3):
        by_means[i, k] += view[k] * along_x + view[3 + k] * along_y + view[6 + k] * along_z
        pose[k] += along_x * means[i, k]
        pose[3 + k] += along_y * means[i, k]
        pose[6 + k] += along_z * means[i, k]


@kernel
def project_back(
    first: int,
    step: int,
    tensors: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    view: Doubles,
    degree: int,
    antialiased: bool,
    splats: Floats,
    radii: Floats,
    by_center: Floats,
    by_splats: Floats,
    out: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    pose: Doubles,
) -> None:
    """Fill out, gradients of the six tensors, zero before, and pose (blocks, 12): by rotation and translation.

    Args:
        by_center: (N, 2) gradient by the centres in the plane.
        by_splats: (N, 12) gradient by the columns ACROSS to BLUE.
    """
    means, scales, quats, logits = tensors[0], tensors[1], tensors[2], tensors[3]
    s, g, basis, w, slopes = np.empty(N_SCRATCH), np.empty(N_BY_SCRATCH), np.empty(16), np.empty(16), np.empty(3)
    for block in range(first, (len(means) + BLOCK - 1) // BLOCK, step):
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(means))):
            if radii[i] <= 0:
                continue
            x, y, z = inside(means, i, view)
            slopes_of(x, y, z, view, slopes)
            roots(scales, quats, i, slopes, view, s)
            by_xx, by_xy, by_yy = _covariance_back(i, by_splats, s, antialiased)
            by_slopes = _roots_back(by_xx, by_xy, by_yy, slopes, view, s, g)
            _axes_back(i, quats, view, s, g, out[1], out[2], pose[block])
            _center_back(i, x, y, z, by_slopes, by_center, view, means, out[0], pose[block])
            _colors_back(i, tensors, view, degree, splats, by_splats, out, basis, w, pose[block])
            out[3][i] = by_splats[i, LOG_OPACITY] * LOG2_E / (1 + math.exp(float(logits[i])))
