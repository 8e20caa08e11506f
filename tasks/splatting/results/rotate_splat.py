"""Rotates a splat: means, rotations, and the spherical harmonics of its colours."""

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.geometry.harmonics import sh_basis_at
from tasks.geometry.rotations import quaternion_of
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians

RIGHT_UP_BACK = np.diag([1.0, -1.0, -1.0])
"""From right-down-forward, the axes of OpenCV and COLMAP, to right-up-back, those of OpenGL."""


def turned(gaussians: Gaussians, rotation: NDArray[np.float64]) -> Gaussians:
    """Return the splat of the turned world: what was at p is at `rotation @ p` and looks the same from there.

    Args:
        gaussians: on the CPU.
        rotation: (3, 3), a rotation without reflection.
    """
    matrix = torch.from_numpy(rotation)
    quats = gaussians.quats.double()
    w, x, y, z = quaternion_of(rotation)
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
    after, before = sh_basis_at(directions, degree), sh_basis_at(directions @ rotation, degree)
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
    if np.linalg.norm(back) < 1e-6 * len(cameras):  # straight down, or in all directions: any heading is as good
        back = np.eye(3)[np.argmin(np.abs(up))]
        back = back - up * (back @ up)
    back = back / np.linalg.norm(back)
    return np.stack([np.cross(up, back), up, back])
