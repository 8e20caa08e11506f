"""Fits small corrections of the camera poses along with the Gaussians."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tasks.splatting.render.cameras import Camera

FINAL = 0.01  # the learning rate at the last step, as a share of the first one


class PoseCorrections:
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
        self._optimizer = torch.optim.Adam([self.values], lr=rate, weight_decay=decay)

    def pose(self, index: int) -> Tensor:
        """Return world to camera of an image, (4, 4) float32, differentiable."""
        turn, shift = rigid(self.values[index])
        correction = torch.cat([torch.cat([turn, shift[:, None]], 1), self._last_row])
        return correction @ self._given[index].float()

    def step(self, progress: float) -> None:
        """Take one step from the gradients, and drop them.

        Args:
            progress: share of all steps that is done, in [0, 1]; the rate falls with it.
        """
        self._optimizer.param_groups[0]["lr"] = self._rate * FINAL**progress
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def drop_gradients(self) -> None:
        """Forget the gradients of an attempt that failed."""
        self._optimizer.zero_grad(set_to_none=True)

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

    def state_dict(self) -> dict[str, Any]:
        """Return all that is fitted."""
        return {"values": self.values.detach(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        with torch.no_grad():
            self.values.copy_(state["values"])
        self._optimizer.load_state_dict(dict(state["optimizer"]))


def rigid(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotation (3, 3) and shift (3,) of nine numbers; zeros: none of either."""
    axes = torch.eye(3, dtype=values.dtype, device=values.device)  # made there: sending it would wait for a GPU
    first, second = values[3:6] + axes[0], values[6:9] + axes[1]
    x = torch.nn.functional.normalize(first, dim=0)
    y = torch.nn.functional.normalize(second - (x @ second) * x, dim=0)
    return torch.stack([x, y, torch.linalg.cross(x, y)]), values[:3]
