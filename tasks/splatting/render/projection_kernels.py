"""CPU kernels: project Gaussians into the image and compute their colours, in one pass.

Arithmetic is float64 between float32 arrays: a kernel of scalars is no slower for it, and thin Gaussians keep the
determinant of their covariance. The names of the columns of `splats` are constants here; e is the exponent of alpha:
alpha = 2 ** (LOG_OPACITY - ACROSS (dx + SHEAR dy)^2 - DOWN dy^2), at dx, dy pixels from the centre. Both squares count
the same way, so thin Gaussians lose no digits, which a dx^2 + 2 b dx dy + c dy^2 does.
Source: 3DGS (arXiv:2308.04079) sec. 4 and app. A; EWA splatting (Zwicker et al. 2001); conventions of upstream gsplat.
"""

import math

import numpy as np

from tasks.geometry import harmonics
from tasks.geometry.harmonics import C0
from tasks.geometry.jit import Doubles, Floats, kernel
from tasks.geometry.rotations import rotation_entries

CENTER_X, CENTER_Y, ACROSS, SHEAR, DOWN, LOG_OPACITY, RED, GREEN, BLUE, REACH_Y, REACH_X, DEPTH = range(12)
N_COLUMNS = 12
# Of `view`: rotation, translation, the camera's place, focal lengths, centre, size, near plane, bounds of the slopes.
R0, T0, PLACE, FX, FY, CX, CY, WIDTH, HEIGHT, NEAR, LOW_X, HIGH_X, LOW_Y, HIGH_Y = (0, 9, 12, *range(15, 26))
N_VIEW = 26
# Of the scratch `s` of one Gaussian: its rotation R from 0 on, row by row; the lengths of its axes; these axes in the
# camera, A = W R diag(lengths), row by row; rows x and y of the axes in the plane, M = J A with the Jacobian J.
LENGTHS, AXES, PLANE_X, PLANE_Y = 9, 12, 21, 24
N_SCRATCH = 27

BLUR = 0.3  # pixels^2
ALPHA_MIN = 1 / 255
LOG2_E = 1 / math.log(2)
LN_2 = math.log(2)
BLOCK = 256  # Gaussians; sums over them do not depend on the number of threads
SLACK = 0.01  # pixels; float32 must not move a pixel with alpha >= 1/255 out of a box


sh_basis, _rotation = kernel(harmonics.sh_basis), kernel(rotation_entries)


@kernel
def inside(means: Floats, i: int, view: Doubles) -> tuple[float, float, float]:
    """Return where a Gaussian's centre is, in the camera's axes."""
    x, y, z = means[i, 0], means[i, 1], means[i, 2]
    return (
        view[0] * x + view[1] * y + view[2] * z + view[T0],
        view[3] * x + view[4] * y + view[5] * z + view[T0 + 1],
        view[6] * x + view[7] * y + view[8] * z + view[T0 + 2],
    )


@kernel
def direction(means: Floats, i: int, view: Doubles) -> tuple[float, float, float, float]:
    """Return the unit vector from the camera to a Gaussian, and the distance."""
    x, y, z = means[i, 0] - view[PLACE], means[i, 1] - view[PLACE + 1], means[i, 2] - view[PLACE + 2]
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length, length


@kernel
def roots(scales: Floats, quats: Floats, i: int, slopes: Doubles, view: Doubles, s: Doubles) -> None:
    """Fill the scratch s of a Gaussian.

    slopes: x / z and y / z as the Jacobian takes them, 1 / z.
    """
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    unit = 1 / math.sqrt(w * w + x * x + y * y + z * z)
    s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8] = _rotation(w * unit, x * unit, y * unit, z * unit)
    along_x, along_y = view[FX] * slopes[2], view[FY] * slopes[2]
    for k in range(3):
        s[LENGTHS + k] = math.exp(float(scales[i, k]))
        for row in range(3):
            turned = view[3 * row] * s[k] + view[3 * row + 1] * s[3 + k] + view[3 * row + 2] * s[6 + k]
            s[AXES + 3 * row + k] = turned * s[LENGTHS + k]
        s[PLANE_X + k] = along_x * (s[AXES + k] - slopes[0] * s[AXES + 6 + k])
        s[PLANE_Y + k] = along_y * (s[AXES + 3 + k] - slopes[1] * s[AXES + 6 + k])


@kernel
def sharp_of(s: Doubles) -> tuple[float, float, float, float]:
    """Return the unblurred covariance xx, xy, yy in the plane, and its determinant, which never cancels."""
    x0, x1, x2 = s[PLANE_X], s[PLANE_X + 1], s[PLANE_X + 2]
    y0, y1, y2 = s[PLANE_Y], s[PLANE_Y + 1], s[PLANE_Y + 2]
    xx, xy, yy = x0 * x0 + x1 * x1 + x2 * x2, x0 * y0 + x1 * y1 + x2 * y2, y0 * y0 + y1 * y1 + y2 * y2
    m0, m1, m2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    return xx, xy, yy, m0 * m0 + m1 * m1 + m2 * m2


@kernel
def _colors(
    i: int, means: Floats, sh0: Floats, shN: Floats, view: Doubles, degree: int, basis: Doubles, splats: Floats
) -> None:
    """Write the colour a Gaussian has from the camera's place."""
    x, y, z, _ = direction(means, i, view)
    sh_basis(x, y, z, degree, basis)
    red, green, blue = C0 * sh0[i, 0, 0] + 0.5, C0 * sh0[i, 0, 1] + 0.5, C0 * sh0[i, 0, 2] + 0.5
    for k in range((degree + 1) ** 2 - 1):
        red += basis[k + 1] * shN[i, k, 0]
        green += basis[k + 1] * shN[i, k, 1]
        blue += basis[k + 1] * shN[i, k, 2]
    # Written so that NaN stays NaN, and is noticed.
    splats[i, RED] = 0.0 if red < 0 else red
    splats[i, GREEN] = 0.0 if green < 0 else green
    splats[i, BLUE] = 0.0 if blue < 0 else blue


@kernel
def _splat(
    i: int,
    x: float,
    y: float,
    slopes: Doubles,
    logit: float,
    view: Doubles,
    antialiased: bool,
    s: Doubles,
    splats: Floats,
) -> bool:
    """Write a Gaussian's shape in the plane; False where no pixel would see it."""
    sxx, sxy, syy, sharp = sharp_of(s)
    det = sharp + BLUR * (sxx + syy) + BLUR * BLUR
    opacity = 1 / (1 + math.exp(-logit))
    if antialiased:
        opacity *= math.sqrt(sharp / det)
    if opacity < ALPHA_MIN:
        return False
    xx, yy = sxx + BLUR, syy + BLUR
    reach = math.sqrt(2 * math.log(255 * opacity))
    rx, ry = reach * math.sqrt(xx), reach * math.sqrt(yy)
    if x + rx <= 0 or x - rx >= view[WIDTH] or y + ry <= 0 or y - ry >= view[HEIGHT]:
        return False
    splats[i, CENTER_X], splats[i, CENTER_Y] = x, y
    splats[i, ACROSS], splats[i, SHEAR], splats[i, DOWN] = 0.5 * LOG2_E * yy / det, -sxy / yy, 0.5 * LOG2_E / yy
    splats[i, LOG_OPACITY] = math.log2(opacity)
    splats[i, REACH_X], splats[i, REACH_Y] = rx, ry
    splats[i, DEPTH] = 1 / slopes[2]
    return True


@kernel
def slopes_of(x: float, y: float, z: float, view: Doubles, slopes: Doubles) -> None:
    """Write x / z and y / z, held within 1.3 times the field of view, and 1 / z."""
    slopes[0] = min(max(x / z, view[LOW_X]), view[HIGH_X])
    slopes[1] = min(max(y / z, view[LOW_Y]), view[HIGH_Y])
    slopes[2] = 1 / z


@kernel
def project(
    first: int,
    step: int,
    tensors: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    view: Doubles,
    degree: int,
    antialiased: bool,
    splats: Floats,
    radii: Floats,
) -> None:
    """Fill splats (N, 12) and radii (N,), both zero before: pixels, 0: not in the image, -1: not a number.

    Args:
        tensors: means, scales, quats, opacities, sh0, shN, as `Gaussians` has them.
        view: (26,) as listed at the top of the module.
    """
    means, scales, quats, logits, sh0, shN = tensors
    scratch, basis, slopes = np.empty(N_SCRATCH), np.empty(16), np.empty(3)
    for block in range(first, (len(means) + BLOCK - 1) // BLOCK, step):
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(means))):
            total = logits[i] + quats[i, 3]
            for k in range(3):
                total += means[i, k] + scales[i, k] + quats[i, k]
            x, y, z = inside(means, i, view)
            if not math.isfinite(total):
                radii[i] = -1
            elif z >= view[NEAR]:
                slopes_of(x, y, z, view, slopes)
                roots(scales, quats, i, slopes, view, scratch)
                x, y = view[FX] * x / z + view[CX], view[FY] * y / z + view[CY]
                if _splat(i, x, y, slopes, float(logits[i]), view, antialiased, scratch, splats):
                    _colors(i, means, sh0, shN, view, degree, basis, splats)
                    radii[i] = math.ceil(max(splats[i, REACH_X], splats[i, REACH_Y]))
                    for column in range(N_COLUMNS):
                        if not math.isfinite(splats[i, column]):
                            radii[i] = -1
