"""Fits small corrections of the camera poses along with the Gaussians."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tasks.splatting.fit.per_image import PerImage
from tasks.splatting.render.cameras import Camera

FINAL = 0.01  # the learning rate at the last step, as a share of the first one


class PoseCorrections(PerImage):
    """A turn and a shift per training image.

    The turn is two columns of a rotation, made orthonormal (arXiv:1812.07035), the shift is in the camera's own axes.
    Source: the same in upstream gsplat examples/utils.py, Adam with weight decay.

    Args:
        cameras: of the images, in their order.
        rate: learning rate of Adam.
        decay: weight decay.
        device: of the Gaussians.
    """

    def __init__(self, cameras: Sequence[Camera], rate: float, decay: float, device: torch.device) -> None:
        stacked = [torch.as_tensor(camera.world_to_camera, dtype=torch.float64) for camera in cameras]
        self._given = torch.stack(stacked).to(device)  # (n, 4, 4)
        self.values = torch.zeros(len(cameras), 9, device=device, requires_grad=True)  # shift, then the 6 of the turn
        self._last_row = torch.tensor([[0.0, 0.0, 0.0, 1.0]], device=device)  # sent once: sending waits for the GPU
        self._rate = rate
        super().__init__("values", self.values, rate, decay)

    def pose(self, index: int) -> Tensor:
        """Return world to camera of an image, (4, 4) float32, differentiable."""
        turn, shift = rigid(self.values[index])
        correction = torch.cat([torch.cat([turn, shift[:, None]], 1), self._last_row])
        return correction @ self._given[index].float()

    def step(self, progress: float = 0.0) -> None:
        """Take one step from the gradients, and drop them.

        Args:
            progress: share of all steps that is done, in [0, 1]; the rate falls with it.
        """
        self._optimizer.param_groups[0]["lr"] = self._rate * FINAL**progress
        super().step()

    @torch.no_grad()
    def corrected(self, cameras: Sequence[Camera]) -> list[Camera]:
        """Return the cameras where they are now thought to stand; rigid to the precision of float64."""
        moved = []
        for index, camera in enumerate(cameras):
            turn, shift = rigid(self.values[index].double())
            matrix = torch.eye(4, dtype=torch.float64, device=turn.device)
            matrix[:3, :3], matrix[:3, 3] = turn, shift
            moved.append(replace(camera, world_to_camera=(matrix @ self._given[index]).cpu().numpy()))
        return moved


def rigid(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotation (3, 3) and shift (3,) of nine numbers; zeros: none of either."""
    axes = torch.eye(3, dtype=values.dtype, device=values.device)  # made there: sending it would wait for a GPU
    first, second = values[3:6] + axes[0], values[6:9] + axes[1]
    x = torch.nn.functional.normalize(first, dim=0)
    y = torch.nn.functional.normalize(second - (x @ second) * x, dim=0)
    return torch.stack([x, y, torch.linalg.cross(x, y)]), values[:3]
