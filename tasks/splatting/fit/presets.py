"""The settings of a fit: the parameters, and the preset's values for those left empty."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tasks.splatting.params import Preset, SplatParams

Strategy = Literal["mcmc", "default"]
T = TypeVar("T", int, float)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a fit does, nothing left open. Steps count from 0; learning rates are Adam's."""

    seed: int
    max_steps: int
    batch_size: int  # images of a step
    max_side: int  # pixels
    eval_every: int  # steps
    min_psnr: float  # dB

    strategy: Strategy
    cap_max: int  # most Gaussians
    noise_lr: float  # mcmc: noise on means, as a multiple of their learning rate
    min_opacity: float
    growth: float  # mcmc: factor per refinement, above 1
    prune_opa: float
    grow_grad2d: float
    grow_scale3d: float  # share of the scene's size
    prune_scale3d: float  # share of the scene's size
    reset_every: int
    refine_start: int
    refine_stop: int
    refine_every: int

    sh_degree: int
    sh_degree_interval: int
    init_type: Literal["sfm", "random"]
    init_num_pts: int
    init_extent: float
    init_opa: float
    init_scale: float

    means_lr: float  # by the scene's size; falls to 1 % at the last step
    scales_lr: float
    opacities_lr: float
    quats_lr: float
    sh0_lr: float
    shN_lr: float
    ssim_lambda: float
    opacity_reg: float
    scale_reg: float
    antialiased: bool
    random_bkgd: bool
    exposure_opt: bool
    exposure_lr: float
    pose_opt: bool
    pose_opt_lr: float
    pose_opt_reg: float


@dataclass(frozen=True, slots=True)
class _Values:
    """What a preset fills in; the windows are in steps of a run of `max_steps`."""

    max_steps: int
    max_side: int
    eval_every: int
    cap_max: int
    noise_lr: float
    growth: float
    refine_start: int
    refine_stop: int  # of mcmc; the classic strategy stops at 3/5 of it, as in gsplat
    sh_degree: int
    sh_degree_interval: int
    init_scale: float  # of mcmc
    means_lr: float
    lr_factor: float  # on gsplat's other learning rates


# What GPUs do. Source: upstream gsplat examples/simple_trainer.py and strategy/mcmc.py: 30,000 steps, cap 1M,
# refinement from 500 to 25,000 by 5 % each, noise 5e5, means 1.6e-4. The images of the benchmarks there are about 1,000
# to 1,600 pixels. On CPUs fewer steps need larger ones: measured on two cores, 1,000 steps with the values of the GPU
# end 2.5 dB lower.
_DEVICES: tuple[str, ...] = ("cuda", "cpu")
_PRESETS: tuple[Preset, ...] = ("quick", "normal", "full")
_TABLE: dict[str, tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]] = {  # by device, then by preset
    "max_steps": ((7000, 30_000, 30_000), (1000, 3000, 10_000)),
    "max_side": ((1000, 1600, 1600), (357, 482, 640)),
    "eval_every": ((1000, 2500, 2500), (250, 500, 1000)),
    "cap_max": ((1_000_000, 1_000_000, 3_000_000), (15_000, 30_000, 100_000)),
    "noise_lr": ((5e5, 5e5, 5e5), (1e5, 1e5, 1e5)),
    "growth": ((1.05, 1.05, 1.05), (1.3, 1.15, 1.15)),
    "refine_start": ((500, 500, 500), (100, 200, 300)),
    "refine_stop": ((6000, 25_000, 25_000), (800, 2500, 8500)),
    "sh_degree": ((3, 3, 3), (1, 2, 3)),
    "sh_degree_interval": ((1000, 1000, 1000), (300, 500, 800)),
    "init_scale": ((0.1, 0.1, 0.1), (0.5, 0.5, 0.5)),
    "means_lr": ((1.6e-4, 1.6e-4, 1.6e-4), (8e-4, 6e-4, 5e-4)),
    "lr_factor": ((1.0, 1.0, 1.0), (2.5, 2.0, 2.0)),
}


def _preset(device_type: str, preset: Preset) -> _Values:
    device, column = _DEVICES.index(device_type), _PRESETS.index(preset)
    return _Values(**{name: values[device][column] for name, values in _TABLE.items()})


def settings(params: SplatParams, device_type: str) -> Settings:
    """Return what the parameters mean on a device.

    Windows of the preset (refinement, degrees of colour) stretch with `max_steps`, so a run of half the steps does
    all of it in half the time.

    With several images in a step, a preset takes as many times fewer steps, and what comes every so many images comes
    after fewer of them; learning rates are multiplied by the square root of the number. Source: `adjust_steps` and
    `create_splats_with_optimizers` of upstream gsplat examples/simple_trainer.py, after Malladi et al. 2022
    (arXiv:2205.10287); there the rates of poses follow the images of one process alone.

    Args:
        params: as the run has them.
        device_type: "cuda" or "cpu".

    Raises:
        ValueError: another type of device.
    """
    if device_type not in _DEVICES:
        raise ValueError(f"found a device of type {device_type!r}, need cuda or cpu")
    p, values = params, _preset(device_type, params.preset)
    n = p.batch_size
    steps = _or(p.max_steps, -(-values.max_steps // n))
    stretch = steps / values.max_steps
    mcmc = p.strategy == "mcmc"
    stop = values.refine_stop if mcmc else values.refine_stop * 3 // 5
    return Settings(
        **_as_given(p),
        max_steps=steps,
        refine_every=max(1, round(p.refine_every / n)),
        reset_every=max(1, round(p.reset_every / n)),
        max_side=_or(p.max_side, values.max_side),
        eval_every=_or(p.eval_every, max(1, round(values.eval_every * stretch))),
        cap_max=_or(p.cap_max, values.cap_max),
        noise_lr=_or(p.noise_lr, values.noise_lr),
        growth=values.growth,
        refine_start=_or(p.refine_start, round(values.refine_start * stretch)),
        refine_stop=_or(p.refine_stop, round(stop * stretch)),
        sh_degree=_or(p.sh_degree, values.sh_degree),
        sh_degree_interval=_or(p.sh_degree_interval, max(1, round(values.sh_degree_interval * stretch))),
        # Source: upstream gsplat examples/simple_trainer.py: the classic strategy starts faint and without weights
        # on opacity and scale; its size at the start is 1.0, that of MCMC 0.1.
        init_opa=_or(p.init_opa, 0.5 if mcmc else 0.1),
        opacity_reg=_or(p.opacity_reg, 0.01 if mcmc else 0.0),
        scale_reg=_or(p.scale_reg, 0.01 if mcmc else 0.0),
        init_scale=_or(p.init_scale, values.init_scale if mcmc else 1.0),
        **{name: rate * math.sqrt(n) for name, rate in _rates(p, values).items()},
    )


def _rates(params: SplatParams, values: _Values) -> dict[str, Any]:
    """Return the learning rates of steps of one image."""
    p, factor = params, values.lr_factor
    return {
        "means_lr": _or(p.means_lr, values.means_lr),
        "scales_lr": _or(p.scales_lr, 5e-3 * factor),
        "opacities_lr": _or(p.opacities_lr, 5e-2 * factor),
        "quats_lr": _or(p.quats_lr, 1e-3 * factor),
        "sh0_lr": _or(p.sh0_lr, 2.5e-3 * factor),
        "shN_lr": _or(p.shN_lr, 2.5e-3 / 20 * factor),
        "exposure_lr": p.exposure_lr,
        "pose_opt_lr": p.pose_opt_lr,
    }


def _as_given(params: SplatParams) -> dict[str, Any]:
    """Return the fields that no preset touches."""
    names = (
        *("seed", "batch_size", "min_psnr", "strategy", "min_opacity", "prune_opa"),
        *("grow_grad2d", "grow_scale3d", "prune_scale3d", "init_type", "init_num_pts", "init_extent", "ssim_lambda"),
        *("antialiased", "random_bkgd", "exposure_opt", "pose_opt", "pose_opt_reg"),
    )
    return {name: getattr(params, name) for name in names}


def _or(given: T | None, preset: T) -> T:
    return preset if given is None else given
