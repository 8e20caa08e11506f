"""Rotates a splat: means, rotations, and the spherical harmonics of its colours."""

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians

RIGHT_UP_BACK = np.diag([1.0, -1.0, -1.0])
"""From right-down-forward, the axes of OpenCV and COLMAP, to right-up-back, those of OpenGL."""


def sh_basis(directions: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Return the real spherical harmonics of unit directions (S, 3), (S, (degree + 1) ** 2), in the order of 3DGS.

    Source: Sloan 2013, "Efficient Spherical Harmonic Evaluation"; signs and order as 3DGS (arXiv:2308.04079).
    """
    x, y, z = directions.T
    xx, yy, zz = x * x, y * y, z * z
    rows = [np.full_like(x, 0.28209479177387814)]
    if degree > 0:
        rows += [-0.48860251190291987 * y, 0.48860251190291987 * z, -0.48860251190291987 * x]
    if degree > 1:
        rows += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy)]
        rows += [-1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy)]
    if degree > 2:
        rows += [-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z]
        rows += [-0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)]
        rows += [-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)]
        rows += [-0.5900435899266435 * x * (xx - 3 * yy)]
    return np.stack(rows, axis=1)


def quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rotation matrix (3, 3) as unit quaternion, (4,) w x y z with w >= 0.

    Source: Bar-Itzhack 2000, "New method for extracting the quaternion from a rotation matrix".
    """
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z]) * (-1.0 if w < 0 else 1.0)


def rotation_of(quat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a unit quaternion (4,) w x y z as matrix, (3, 3)."""
    w, x, y, z = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def turned(gaussians: Gaussians, rotation: NDArray[np.float64]) -> Gaussians:
    """Return the splat of the turned world: what was at p is at `rotation @ p` and looks the same from there.

    Args:
        gaussians: on the CPU.
        rotation: (3, 3), a rotation without reflection.
    """
    matrix = torch.from_numpy(rotation)
    quats = gaussians.quats.double()
    w, x, y, z = quaternion(rotation)
    left = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=torch.float64)
    return Gaussians(
        means=(gaussians.means.double() @ matrix.T).float(),
        scales=gaussians.scales.clone(),
        quats=(quats @ left.T).float(),
        opacities=gaussians.opacities.clone(),
        sh0=gaussians.sh0.clone(),
        shN=_turned_harmonics(gaussians.shN, rotation, gaussians.sh_degree),
    )


def _turned_harmonics(higher: torch.Tensor, rotation: NDArray[np.float64], degree: int) -> torch.Tensor:
    """Return the coefficients (N, K - 1, 3) of colours seen from turned directions.

    The harmonics of one degree turn among themselves; the matrix of that is solved for on sampled directions, which
    is exact up to rounding and needs no table of Wigner's matrices.
    """
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    after, before = sh_basis(directions, degree), sh_basis(directions @ rotation, degree)
    result = higher.double().clone()
    for band in range(1, degree + 1):
        ours = slice(band**2, (band + 1) ** 2)
        matrix = torch.from_numpy(np.linalg.lstsq(after[:, ours], before[:, ours], rcond=None)[0])
        part = slice(ours.start - 1, ours.stop - 1)
        result[:, part] = torch.einsum("jk,nkc->njc", matrix, higher[:, part].double())
    return result.float()


def upright(cameras: list[Camera]) -> NDArray[np.float64]:
    """Return the rotation (3, 3) into a world with y up in which the cameras look along -z on average.

    Without cameras, or where they cancel out, the world is taken to be right-down-forward.
    """
    up = -sum((camera.world_to_camera[1, :3] for camera in cameras), np.zeros(3))
    forward = sum((camera.world_to_camera[2, :3] for camera in cameras), np.zeros(3))
    if np.linalg.norm(up) < 1e-6 * max(1, len(cameras)):
        return RIGHT_UP_BACK.copy()
    up = up / np.linalg.norm(up)
    back = -(forward - up * (forward @ up))
    if np.linalg.norm(back) < 1e-6 * len(cameras):  # straight down, or all around: any heading will do
        back = np.eye(3)[np.argmin(np.abs(up))]
        back = back - up * (back @ up)
    back = back / np.linalg.norm(back)
    return np.stack([np.cross(up, back), up, back])
