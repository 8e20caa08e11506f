"""The implementations that splats are compared with: gsplat's loop, and the usual loss."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.splatting.fit.training_images import TrainingImage
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.trial.splats.gsplat_torch import draw

RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}


def conv_loss(x: Tensor, y: Tensor, share: float) -> Tensor:
    """Return 3DGS's loss as public trainers compute it: SSIM by one 11x11 convolution of three groups."""
    bell = torch.exp(-((torch.arange(11, dtype=x.dtype, device=x.device) - 5) ** 2) / 4.5)
    bell = bell / bell.sum()
    window = (bell[:, None] * bell).expand(3, 1, 11, 11).contiguous()
    a, b = x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None]
    ma, mb, aa, bb, ab = (F.conv2d(part, window, groups=3) for part in (a, b, a * a, b * b, a * b))
    top = (2 * ma * mb + 0.01**2) * (2 * (ab - ma * mb) + 0.03**2)
    likeness = (top / ((ma**2 + mb**2 + 0.01**2) * (aa - ma**2 + bb - mb**2 + 0.03**2))).mean()
    return (1 - share) * (x - y).abs().mean() + share * (1 - likeness)


class PlainSplats:
    """Adam in a plain loop, as gsplat's users write it.

    Args:
        start: Gaussians; copied.
        shots: images to fit to.
        size: of the scene, for the learning rate of the means.
        steps: of the whole fit.
    """

    def __init__(self, start: Gaussians, shots: Sequence[TrainingImage], size: float, steps: int) -> None:
        named = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.tensors().items()}
        self.values = torch.nn.ParameterDict(named)
        rates = {**RATES, "means": RATES["means"] * size}
        self.optimizers = {
            name: torch.optim.Adam([{"params": value, "lr": rates[name], "name": name}], eps=1e-15, fused=True)
            for name, value in self.values.items()
        }
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizers["means"], 0.01 ** (1 / steps))
        self.shots, self.taken = shots, 0
        self._truths = [shot.truth for shot in shots]
        self._random = np.random.default_rng(0)

    def run(self, steps: int) -> None:
        """Take steps."""
        for _ in range(steps):
            index = int(self._random.integers(len(self.shots)))
            v = self.values
            drawn, info = self.drawn(index)
            total = conv_loss(drawn, self._truths[index], 0.2)
            total = total + 0.01 * v["opacities"].sigmoid().mean() + 0.01 * v["scales"].exp().mean()
            total.backward()
            for optimizer in self.optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            self.refine(info)
            self.taken += 1

    def drawn(self, index: int) -> tuple[Tensor, Any]:
        """Return image (H, W, 3) number `index`, and what its refinement wants to know: by gsplat's PyTorch."""
        fitted = Gaussians(**dict(self.values.items()))
        return draw(fitted, self.shots[index].camera, fitted.sh_degree), None

    def refine(self, info: Any) -> None:
        """Let Gaussians come and go: gsplat can not without its kernels."""

    @property
    def gaussians(self) -> Gaussians:
        """Return what it has come to."""
        return Gaussians(**{name: value.detach() for name, value in self.values.items()})


class GsplatLoop(PlainSplats):
    """gsplat's `rasterization` and MCMCStrategy in that loop; its kernels are loaded.

    Args:
        start, shots, size, steps: as above.
        cap: most Gaussians.
        refine: steps between which Gaussians come and go, and how far apart; None: they never do.
        degree_every: steps until the next degree of harmonics joins; 0: all from the first step on.
    """

    def __init__(
        self,
        start: Gaussians,
        shots: Sequence[TrainingImage],
        size: float,
        steps: int,
        *,
        cap: int,
        refine: tuple[int, int, int] | None,
        degree_every: int = 0,
    ) -> None:
        super().__init__(start, shots, size, steps)
        first, last, every = refine or (10**9, 10**9, 100)
        strategy = import_module("gsplat.strategy").MCMCStrategy
        self._strategy = strategy(cap_max=cap, refine_start_iter=first, refine_stop_iter=last, refine_every=every)
        self._state = self._strategy.initialize_state()
        self._rasterization: Callable[..., Any] = import_module("gsplat").rasterization
        self._degree_every = degree_every
        device = start.means.device
        self._places = [_placed(shot.camera, device) for shot in shots]

    def drawn(self, index: int) -> tuple[Tensor, Any]:
        """Return image (H, W, 3) number `index`, and what gsplat tells of it."""
        v, camera, (pose, lens) = self.values, self.shots[index].camera, self._places[index]
        most = self.gaussians.sh_degree
        drawn, _, info = self._rasterization(
            v["means"],
            v["quats"],
            v["scales"].exp(),
            v["opacities"].sigmoid(),
            torch.cat([v["sh0"], v["shN"]], 1),
            pose[None],
            lens[None],
            camera.width,
            camera.height,
            sh_degree=min(self.taken // self._degree_every, most) if self._degree_every else most,
            packed=False,
        )
        return drawn[0], info

    def refine(self, info: Any) -> None:
        """Relocate, add and shake."""
        rate = self.schedule.get_last_lr()[0]
        self._strategy.step_post_backward(self.values, self.optimizers, self._state, self.taken, info, lr=rate)


def _placed(camera: Camera, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return world to camera (4, 4) and the intrinsics (3, 3)."""
    pose = torch.tensor(camera.world_to_camera, dtype=torch.float32, device=device)
    lens = torch.tensor([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]], device=device)
    return pose, lens
