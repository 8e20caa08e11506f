"""Checks image, gradients, loss and refinement of splats on a device."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from gpu_pools.kernels import own_kernels
from tasks.base.errors import ConfigError
from tasks.base.project_files import install_command
from tasks.splatting.fit.mcmc import Mcmc
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.presets import Settings, settings
from tasks.splatting.loss.photo_loss import photo_loss
from tasks.splatting.params import SplatParams
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.cuda_rasterizer import CudaRasterizer
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer, Rendered
from tasks.trial.agreement import relative
from tasks.trial.report import CheckResult, Place, checked, not_here
from tasks.trial.splats import gsplat_torch
from tasks.trial.splats.peers import conv_loss
from tasks.trial.splats.scene import arc, true_gaussians

Drawn = Callable[[Gaussians, Camera], Tensor]

IMAGE_OFF, GRADIENTS_OFF = {"cuda": 1e-3, "cpu": 1e-5}, {"cuda": 1e-2, "cpu": 1e-4}
"""Relative by norm. A Gaussian whose alpha is at 1/255 is drawn by one side and not by the other; a wrong formula is
off by more than a hundredth. Both sides of a CPU compute the same sums in the same order, so it is held closer."""

LOSS_OFF, LOSS_GRADIENT_OFF = 1e-6, 1e-5
"""Absolute, and relative to the largest gradient: SSIM in TF32 is 1e-4 off and costs 9 dB after 1,000 steps."""

REFINEMENT_OFF = 1e-5
"""Relative: both are computed in float64 and kept in float32."""

_HOW = f"{install_command('gpu')}, then `yard kernels build`"
_REPORT = "report it with what `--json` says: fits on this device come out wrong"


def agreement(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Compare an image, its gradients, the loss and a refinement on the device with what they should be."""
    device = torch.device(where.kind)
    yield image(where, device)
    yield loss_row(*loss_off(device))
    yield refinement(device)


def rasterizer_of(where: Place) -> Rasterizer:
    """Return what draws on the device.

    Raises:
        ConfigError: gsplat or its kernels are not here.
    """
    if not where.is_gpu:
        return CpuRasterizer(num_threads=torch.get_num_threads())
    return CudaRasterizer(kernels=own_kernels())


def image(where: Place, device: torch.device) -> CheckResult:
    """Return the row of an image with harmonics of degree 3: of a GPU against the CPU's, of a CPU against gsplat's."""
    gaussians, camera = _colourful(), arc(3)[1]
    try:
        rasterizer = rasterizer_of(where)
        if where.is_gpu:
            expected = drawn_by(gaussians, camera, _by(CpuRasterizer()), torch.device("cpu"))
        else:
            expected = drawn_by(gaussians, camera, lambda g, c: gsplat_torch.draw(g, c, 3), device)
    except (ConfigError, ImportError) as exc:
        return not_here("splat picture", str(exc).partition(":")[0], _HOW)
    found = drawn_by(gaussians, camera, _by(rasterizer), device)
    return image_row(where, found, expected)


def image_row(where: Place, found: list[Tensor], expected: list[Tensor]) -> CheckResult:
    """Return the row of two images, each with its gradients behind it."""
    off = relative(found[0], expected[0])
    gradients = max(relative(one, other) for one, other in zip(found[1:], expected[1:], strict=True) if other.any())
    most = IMAGE_OFF[where.kind], GRADIENTS_OFF[where.kind]
    peer = "the CPU's" if where.is_gpu else "gsplat's PyTorch"
    figure = f"from {peer}: {off:.1e} off (at most {most[0]:.0e}), gradients {gradients:.1e} (at most {most[1]:.0e})"
    good = off <= most[0] and gradients <= most[1]
    return checked("splat picture", good, figure, _REPORT, picture_off=off, gradients_off=gradients)


def _by(rasterizer: Rasterizer) -> Drawn:
    return lambda gaussians, camera: rasterizer(gaussians, camera, sh_degree=3).colors


def drawn_by(gaussians: Gaussians, camera: Camera, draw: Drawn, device: torch.device) -> list[Tensor]:
    """Return the image and the gradients of its weighted sum by every tensor, on the CPU."""
    leaves = {name: tensor.to(device).requires_grad_() for name, tensor in gaussians.detached().tensors().items()}
    colors = draw(Gaussians(**leaves), camera)
    (colors * torch.linspace(0, 1, colors.numel(), device=device).view_as(colors)).sum().backward()
    return [colors.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves.values() if leaf.grad is not None)]


def _colourful() -> Gaussians:
    true = true_gaussians()
    noise = torch.randn(len(true), 15, 3, generator=torch.Generator().manual_seed(0))
    return Gaussians(**{**true.tensors(), "shN": 0.3 * noise})


def loss_off(device: torch.device) -> tuple[float, float]:
    """Return how far loss and gradient are from float64 at worst, over a noisy, a close and a flat image."""
    taken = torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(48, 64, 3, generator=torch.Generator().manual_seed(2))
    flat = torch.full_like(taken, 0.9)
    cases = [((taken + 0.1 * noise).clamp(0, 1), taken), (taken + 1e-3 * noise, taken), (flat + 0.01 * noise, flat)]
    worst = (0.0, 0.0)
    for drawn, truth in cases:
        right, leaf = drawn.double().requires_grad_(), drawn.to(device).requires_grad_()
        expected, value = conv_loss(right, truth.double(), 0.2), photo_loss(leaf, truth.to(device), None, 0.2)
        expected.backward()
        value.backward()
        assert right.grad is not None, "it was asked for"
        assert leaf.grad is not None, "it was asked for"
        off = float((leaf.grad.cpu() - right.grad).abs().max() / right.grad.abs().max())
        worst = max(worst[0], abs(float(value.detach()) - float(expected.detach()))), max(worst[1], off)
    return worst


def loss_row(off: float, gradient_off: float) -> CheckResult:
    """Return the row of a loss that is so far from float64."""
    figure = (
        f"L1 + SSIM from float64: {off:.1e} off (at most {LOSS_OFF:.0e}), "
        f"gradient {gradient_off:.1e} (at most {LOSS_GRADIENT_OFF:.0e})"
    )
    good = off <= LOSS_OFF and gradient_off <= LOSS_GRADIENT_OFF
    return checked("splat loss", good, figure, _REPORT, loss_off=off, gradient_off=gradient_off)


def refinement(device: torch.device) -> CheckResult:
    """Return the row of one refinement by MCMC: dead Gaussians moved, more made, each sharing as the formula has it."""
    chosen = settings(SplatParams(device=device.type, preset="quick", max_steps=1000, cap_max=10_000), device.type)
    start = true_gaussians()
    start.opacities[::10] = -8.0  # dead
    n, sources = len(start), torch.tensor([1, 1, 2, 3, 3, 3, 3], device=device)
    off = shared_off(chosen, start, sources)
    optimizer = SplatOptimizer(start.detached().moved_to(device))
    strategy = Mcmc(chosen, torch.Generator(device).manual_seed(0))
    step = (chosen.refine_start // chosen.refine_every + 1) * chosen.refine_every
    strategy.after_step(optimizer, [_no_image(optimizer.gaussians)], step, 0.0)
    opacities = torch.sigmoid(optimizer.gaussians.opacities.detach())
    dead = int((opacities < chosen.min_opacity * (1 - 1e-4)).sum())
    return refinement_row(off, dead, len(opacities), math.ceil(chosen.growth * n))


def refinement_row(off: float, dead: int, n: int, wanted: int) -> CheckResult:
    """Return the row of a refinement that left `dead` of `n` Gaussians, where `wanted` were to be."""
    figure = (
        f"by MCMC: opacities and sizes {off:.1e} from the formula (at most {REFINEMENT_OFF:.0e}), "
        f"{n} Gaussians (need {wanted}), {dead} of them dead (need 0)"
    )
    good = off <= REFINEMENT_OFF and n == wanted and dead == 0
    return checked("splat refinement", good, figure, _REPORT, off=off, gaussians=n, dead=dead)


def shared_off(chosen: Settings, start: Gaussians, sources: Tensor) -> float:
    """Return how far opacities and scales of Gaussians that share their place are from the formula, relative.

    Args:
        chosen: of the fit.
        start: Gaussians on the CPU.
        sources: (M,) those that get copies, on the device.
    """
    optimizer = SplatOptimizer(start.detached().moved_to(sources.device))
    before = torch.sigmoid(start.opacities)
    Mcmc(chosen, torch.Generator(sources.device))._share(optimizer, before.to(sources.device), sources)
    found, worst = optimizer.gaussians.detached(), 0.0
    for row in sorted(set(sources.tolist())):
        copies = sources.tolist().count(row) + 1
        opacity, factor = shared_by_formula(float(before[row]), copies)
        size = math.exp(float(start.scales[row, 0])) * factor
        worst = max(worst, abs(float(torch.sigmoid(found.opacities[row].double())) / opacity - 1))
        worst = max(worst, abs(math.exp(float(found.scales[row, 0])) / size - 1))
    return worst


def shared_by_formula(opacity: float, copies: int) -> tuple[float, float]:
    """Return opacity and factor of size of each of so many copies.

    Source: arXiv:2404.09591 eq. 9, its double sum as it stands.
    """
    new = 1 - (1 - opacity) ** (1 / copies)
    total = sum(
        math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    return new, opacity / total


def _no_image(gaussians: Gaussians) -> Rendered:
    nothing = torch.zeros(0, device=gaussians.means.device)
    return Rendered(nothing, nothing, None, nothing, nothing)
