"""Fits a gain and an offset for each image, for cameras whose exposure changes."""

import torch
from torch import Tensor

from tasks.splatting.fit.per_image import PerImage

REGULARISATION = 1e-2  # on squared differences from no change; holds the mean of all images, which nothing else does


class Exposures(PerImage):
    """Affine colour per training image, fitted along with the Gaussians.

    Source: affine per image as in the authors' own exposure compensation (upstream graphdeco-inria
    gaussian-splatting, `exposure`, 3 x 4 per image, from the identity); the pull to the identity is ours.

    Args:
        n: images.
        rate: learning rate of Adam.
        device: of the Gaussians.
    """

    def __init__(self, n: int, rate: float, device: torch.device) -> None:
        self._identity = torch.eye(3, 4, device=device)
        self.affine = self._identity.repeat(n, 1, 1).requires_grad_()  # (n, 3, 4)
        super().__init__("affine", self.affine, rate)

    def apply(self, colors: Tensor, index: int) -> Tensor:
        """Return (H, W, 3) as image `index` was exposed."""
        return exposed(colors, self.affine[index])

    def penalty(self, index: int) -> Tensor:
        """Return what is added to the loss for an image."""
        return REGULARISATION * (self.affine[index] - self._identity).square().mean()


def exposed(colors: Tensor, affine: Tensor) -> Tensor:
    """Return colours (..., 3) under a 3 x 4 matrix: three gains by channel, then an offset."""
    return colors @ affine[:, :3].T + affine[:, 3]


def solved(drawn: Tensor, taken: Tensor, mask: Tensor | None) -> Tensor:
    """Return the (3, 4) affine map of drawn colours that is nearest to those taken, by least squares.

    Args:
        drawn, taken: (H, W, 3) float32.
        mask: (H, W) bool, True: counts; None: all.
    """
    x = drawn[mask] if mask is not None else drawn.reshape(-1, 3)  # (P, 3)
    y = taken[mask] if mask is not None else taken.reshape(-1, 3)
    ones = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
    a = torch.cat([x.double(), ones], 1)
    # A little of the identity keeps images of one colour, or no counted pixel, from having many answers.
    ridge = 1e-6 * (len(x) + 1) * torch.eye(4, dtype=torch.float64, device=x.device)
    identity = torch.eye(4, 3, dtype=torch.float64, device=x.device)
    answer = torch.linalg.solve(a.T @ a + ridge, a.T @ y.double() + ridge @ identity)
    return answer.T.float()
