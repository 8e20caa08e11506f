"""Checks quality and speed of a fit, beside gsplat's own loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.base.errors import ConfigError
from tasks.splatting.fit.initial_gaussians import start_gaussians
from tasks.splatting.fit.loop import REPORT_EVERY, Fit, FitData
from tasks.splatting.fit.presets import settings
from tasks.splatting.fit.scene import split
from tasks.splatting.fit.session import one_thread
from tasks.splatting.fit.training_images import TrainingImages, scene_size
from tasks.splatting.loss.measure import mean_score, measure
from tasks.splatting.params import SplatParams
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer
from tasks.splatting.render.triton_parts import triton_part
from tasks.trial.plain import wait
from tasks.trial.report import CheckResult, Place, Value, checked, not_here
from tasks.trial.splats.checks import rasterizer_of
from tasks.trial.splats.peers import GsplatLoop, PlainSplats
from tasks.trial.splats.scene import make_scene

GOOD_PSNR = {"cuda": 16.0, "cpu": 20.0}
"""dB on held-out images. Of a GPU gsplat's own loop says what it should be; alone, only what no fit comes to that is
well: 14.6 dB was what SSIM in TF32 led to. The small scene of a CPU ends at 28 dB."""

GOOD_RATIO = 1.0
"""Of steps/s, ours by gsplat's own loop: who has gsplat shall not lose by taking us."""

_WORSE_DB = 1.0  # below gsplat's loop: seeds differ by a third of that

_SLOW = "something else uses this machine (`top`, `yard devices`): end it and try again"
_NO_TRITON = "install gcc and Python's headers, with which Triton compiles our kernels: without them fits are slow"


@dataclass(frozen=True, slots=True)
class FitSize:
    """How much is fitted."""

    gaussians: int
    images: int
    width: int
    height: int
    steps: int
    plain_steps: int  # of gsplat's loop


SIZES = {"cuda": FitSize(20_000, 16, 960, 720, 500, 500), "cpu": FitSize(300, 12, 64, 48, 60, 6)}


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured; of the other loop None where gsplat is not here, and its PSNR where it took fewer steps."""

    steps_s: float
    psnr: float
    plain_steps_s: float | None
    plain_psnr: float | None
    fused: bool = True  # whether our own kernels drew, on a GPU


def fit(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Fit, ours first, then gsplat's loop from the same start."""
    size, device = SIZES[where.kind], torch.device(where.kind)
    try:
        rasterizer = rasterizer_of(where)
    except ConfigError as exc:
        yield not_here("splats", str(exc).partition(":")[0], "`pip install -e '.[gpu]'`, then `yard kernels build`")
        return
    data = made_data(folder / "scene", size, device)
    start = data.start.detached()  # the fit takes over its own
    with one_thread(device):
        ours, steps_s = our_fit(data, rasterizer, device, size.steps)
        psnr = ours.measured().metrics.psnr
        assert psnr is not None, "images were held out"
        peer = plain_loop(where, data, start, size, rasterizer)
    fused = not where.is_gpu or triton_part("render.fused_draw", device) is not None
    plain_steps_s, plain_psnr = peer or (None, None)
    yield fit_row(where, size, Found(steps_s, psnr, plain_steps_s, plain_psnr, fused))


def made_data(folder: Path, size: FitSize, device: torch.device) -> FitData:
    """Return images of known Gaussians, some held out, and Gaussians near those to start from."""
    shape = (size.width, size.height)
    scene = make_scene(folder, size.images, size=shape, n_true=size.gaussians, num_threads=torch.get_num_threads())
    train, held_out = split(scene.views, 4)
    extent = scene_size(scene)
    start = start_gaussians(scene.points, scene.colors, extent, settings(_params(device, size.steps), device.type))
    return FitData(
        TrainingImages(train, max(shape), device), TrainingImages(held_out, max(shape), device), start, extent
    )


def _params(device: torch.device, steps: int) -> SplatParams:
    most = 30_000 if device.type == "cuda" else 500
    return SplatParams(device=device.type, preset="quick", max_steps=steps, eval_every=steps, cap_max=most)


def our_fit(data: FitData, rasterizer: Rasterizer, device: torch.device, steps: int) -> tuple[Fit, float]:
    """Return our fit carried to its end, and its steps/s; the first tenth, which compiles, is not counted."""
    fit = Fit(data, settings(_params(device, steps), device.type), rasterizer, device)

    def take(n: int) -> None:
        for _ in range(n):
            fit._one_step()
            if fit.step % REPORT_EVERY == 0:  # as a fit does: it looks at its losses then
                fit._losses.reported()

    take(steps // 10)
    return fit, _rate(take, steps - steps // 10, device)


def plain_loop(
    where: Place, data: FitData, start: Gaussians, size: FitSize, rasterizer: Rasterizer
) -> tuple[float, float | None] | None:
    """Return the steps/s of gsplat's loop and its PSNR (None after fewer steps); None where gsplat is not here."""
    device = torch.device(where.kind)
    begin, shots = start.moved_to(device), [data.train[index] for index in range(len(data.train))]
    s = settings(_params(device, size.steps), where.kind)
    whole = (begin, shots, data.scene_size, size.steps)
    loop = PlainSplats(*whole)
    if where.is_gpu:
        windows = (s.refine_start, s.refine_stop, s.refine_every)
        loop = GsplatLoop(*whole, cap=s.cap_max, refine=windows, degree_every=s.sh_degree_interval)
    first = max(1, size.plain_steps // 10)
    try:
        loop.run(first)
    except ImportError:
        return None
    rate = _rate(loop.run, size.plain_steps - first, device)
    return rate, psnr_of(loop, rasterizer, data) if size.plain_steps == size.steps else None


def _rate(take: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Return steps/s."""
    wait(device)
    begun = time.perf_counter()
    take(steps)
    wait(device)
    return steps / (time.perf_counter() - begun)


def psnr_of(loop: PlainSplats, rasterizer: Rasterizer, data: FitData) -> float:
    """Return the PSNR of the other loop's Gaussians on the held-out images."""
    gaussians = loop.gaussians
    scores, _ = measure(
        gaussians, rasterizer, data.held_out, sh_degree=gaussians.sh_degree, antialiased=False, expose=False
    )
    score = mean_score(scores)
    assert score is not None, "images were held out"
    return score.psnr


def fit_row(where: Place, size: FitSize, found: Found) -> CheckResult:
    """Return the row of a fit."""
    need = max(GOOD_PSNR[where.kind], (found.plain_psnr or 0.0) - _WORSE_DB)
    parts = [f"{found.psnr:.1f} dB on held-out images after {size.steps} steps (at least {need:.1f})"]
    ratio, good = None, found.psnr >= need
    if found.plain_steps_s is None:
        parts.append(f"{found.steps_s:.0f} steps/s; gsplat's loop not here: gsplat is not installed")
    else:
        ratio = found.steps_s / found.plain_steps_s
        good = good and ratio >= GOOD_RATIO
        peer = "gsplat's loop" if where.is_gpu else "gsplat's PyTorch in a plain loop"
        parts.append(
            f"{found.steps_s:.0f} steps/s, {ratio:.2f} of {peer} (at least {GOOD_RATIO:g}: {found.plain_steps_s:.0f})"
        )
    parts.append(f"{size.gaussians} Gaussians, {size.width}x{size.height}")
    if not found.fused:
        parts.append("without our kernels, as Triton does not run")
    values: dict[str, Value] = {"psnr": found.psnr, "steps_s": found.steps_s, "plain_steps_s": found.plain_steps_s}
    slow = _SLOW if found.fused else _NO_TRITON
    todo = slow if found.psnr >= need else "report it with what `--json` says: fits on this device come out wrong"
    return checked("splats", good, "; ".join(parts), todo, **values, plain_psnr=found.plain_psnr, ratio=ratio)
