"""The interface of the rasterisers, and what they return."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians


@dataclass(frozen=True, slots=True)
class Rendered:
    """One image, and what densification needs to know of the Gaussians in it."""

    colors: Tensor  # (H, W, 3) with the background behind, not clamped
    alphas: Tensor  # (H, W) in [0, 1]
    depths: Tensor | None  # (H, W) alpha-weighted mean depth, world units, 0 where nothing is; None: not asked for
    means2d: Tensor  # (N, 2) pixels; its .grad after backward is the gradient of the loss by it
    radii: Tensor  # (N,), or (N, 2) along both axes, pixels; 0: not in the image

    @property
    def visible(self) -> Tensor:
        """Return which Gaussians are in the image, (N,) bool."""
        inside = self.radii > 0
        return inside.all(-1) if inside.ndim == 2 else inside


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """How one image is drawn.

    Args:
        sh_degree: the highest degree of spherical harmonics to use, at most the Gaussians' own.
        background: (3,) colour; None: black.
        antialiased: scale opacities by the share the 0.3 px blur takes, as Mip-Splatting (arXiv:2311.16493) and
            gsplat's `rasterize_mode="antialiased"`.
        pose: (4, 4) world to camera, in place of the camera's own, differentiable.
        with_depth: draw depths too; no gradient flows through them.
    """

    sh_degree: int
    background: Tensor | None = None
    antialiased: bool = False
    pose: Tensor | None = None
    with_depth: bool = False


class Rasterizer(ABC):
    """Draws Gaussians, differentiable by every tensor of them, by `pose` and by `background`."""

    def __call__(self, gaussians: Gaussians, camera: Camera, *, sh_degree: int, **options: Any) -> Rendered:
        """Draw one image.

        Args:
            gaussians: N of them, float32.
            camera: whose image it is.
            sh_degree, options: as `DrawOptions` has them.
        """
        return self.draw(gaussians, camera, DrawOptions(sh_degree, **options))

    @abstractmethod
    def draw(self, gaussians: Gaussians, camera: Camera, options: DrawOptions) -> Rendered:
        """Draw one image."""
