"""Rotations as quaternions w x y z."""

import torch
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Return (N, 3, 3) rotations.

    Args:
        quats: (N, 4) w x y z, of any length but zero.
    """
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)
