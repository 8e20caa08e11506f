"""Splats on a GPU: right, and how fast beside gsplat's own loop; each part prints one line of JSON.

    python benchmarks/gpu/splats.py loss|draw|fit|million --scene FOLDER --kernels FOLDER [--rehearse]

`fit` and `million` run both sides in the same process, ours first; their `ratio` is ours by gsplat's in steps/s.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tasks.splatting.fit.loop import Fit
from tasks.splatting.fit.mcmc import Mcmc
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.presets import settings
from tasks.splatting.fit.scene import normalized, read_scene
from tasks.splatting.fit.session import FitSession
from tasks.splatting.fit.training_images import TrainingImage, TrainingImages
from tasks.splatting.loss.measure import mean_score, measure
from tasks.splatting.loss.photo_loss import penalty, photo_loss
from tasks.splatting.params import SplatParams
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.cuda_rasterizer import CudaRasterizer
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer
from tasks.trial.splats.peers import RATES, GsplatLoop, conv_loss


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """What every part is given."""

    scene: Path
    device: torch.device
    rasterizer: Rasterizer
    rehearse: bool

    def sync(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ms(self, call: Callable[[], None], n: int) -> float:
        """Return the milliseconds of a call, the mean of n."""
        call()
        self.sync()
        begun = time.perf_counter()
        for _ in range(n):
            call()
        self.sync()
        return 1000 * (time.perf_counter() - begun) / n

    def peak_gib(self) -> float | None:
        """Return the most memory in use since the last time, and count anew."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 3)


def loss(bench: Bench) -> dict[str, Any]:
    """Hold the loss of the device to float64, and time it against the convolution."""
    side = 64 if bench.rehearse else 1000
    shot = TrainingImages(read_scene(bench.scene).views[:1], side, bench.device)[0]
    noise = torch.randn(shot.rgb.shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
    found: dict[str, Any] = {"size": list(shot.rgb.shape[:2])}
    flat = torch.full_like(shot.truth, 0.9)
    cases = {"real": (shot.truth + 0.03 * noise).clamp(0, 1), "close": shot.truth + 1e-3 * noise, "flat": flat}
    for name, drawn in cases.items():
        taken = torch.ones_like(flat) if name == "flat" else shot.truth
        right, leaf = drawn.double().requires_grad_(), drawn.clone().requires_grad_()
        expected, value = conv_loss(right, taken.double(), 0.2), photo_loss(leaf, taken, None, 0.2)
        expected.backward()
        value.backward()
        assert right.grad is not None, "it was asked for"
        assert leaf.grad is not None, "it was asked for"
        off = (leaf.grad - right.grad).abs().max() / right.grad.abs().max()
        found[name] = {"value_off": abs(float(value.detach()) - float(expected.detach())), "gradient_off": float(off)}
    leaf, n = cases["real"].requires_grad_(), 3 if bench.rehearse else 50

    def ours() -> None:
        leaf.grad = None
        photo_loss(leaf, shot.rgb, None, 0.2, n_counted=shot.n_counted).backward()

    def peer() -> None:
        leaf.grad = None
        conv_loss(leaf, shot.truth, 0.2).backward()

    found |= {"ms": round(bench.ms(ours, n), 3), "conv_ms": round(bench.ms(peer, n), 3)}
    return {**found, "ratio": round(found["conv_ms"] / found["ms"], 2)}


def some_camera(width: int, height: int) -> Camera:
    """Return a camera three away from the origin that looks at it."""
    pose = np.eye(4)
    pose[2, 3] = 3.0
    return Camera("made", width, height, width / 2, width / 2, width / 2 + 3, height / 2 - 2, pose)


def some_gaussians(n: int, device: torch.device) -> Gaussians:
    """Return Gaussians around the origin, a few pixels large."""
    g = torch.Generator().manual_seed(0)
    shapes = {
        "means": (n, 3),
        "scales": (n, 3),
        "quats": (n, 4),
        "opacities": (n,),
        "sh0": (n, 1, 3),
        "shN": (n, 15, 3),
    }
    values = {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}
    values["means"] *= 0.6
    values["scales"] = 0.6 * values["scales"] - 4.2
    values["shN"] *= 0.3
    return Gaussians(**{name: value.to(device) for name, value in values.items()})


def draw(bench: Bench) -> dict[str, Any]:
    """Compare images and gradients of the device with those of the CPU, relative by norm."""
    camera, worst = some_camera(96, 64), dict.fromkeys(("picture", "gradients"), 0.0)
    for sh_degree in range(4):
        for antialiased in (False, True):
            pictures, gradients = [], []
            for device, rasterizer in ((torch.device("cpu"), CpuRasterizer()), (bench.device, bench.rasterizer)):
                tensors = some_gaussians(2000, torch.device("cpu")).tensors()
                leaves = {name: t.to(device).requires_grad_() for name, t in tensors.items()}
                background = torch.tensor([0.1, 0.5, 0.9], device=device)
                options = {"sh_degree": sh_degree, "antialiased": antialiased, "background": background}
                colors = rasterizer(Gaussians(**leaves), camera, **options).colors  # type: ignore[arg-type]
                (colors * torch.linspace(0, 1, colors.numel(), device=device).view_as(colors)).sum().backward()
                pictures.append(colors.detach().cpu())
                gradients.append([leaf.grad.cpu() for leaf in leaves.values() if leaf.grad is not None])
            worst["picture"] = max(worst["picture"], _off(*pictures))
            for ours, theirs in zip(*gradients, strict=True):
                if theirs.any():
                    worst["gradients"] = max(worst["gradients"], _off(ours, theirs))
    return {name: float(f"{value:.2e}") for name, value in worst.items()}


def _off(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def our_fit(bench: Bench, steps: int) -> tuple[Fit, float]:
    """Return a fit of the scene carried to its end, and its seconds; reading images is not counted."""
    world, _ = normalized(read_scene(bench.scene))
    side = {"max_side": 64} if bench.rehearse else {}
    params = SplatParams(device=bench.device.type, preset="quick", max_steps=steps, eval_every=steps, **side)
    given: dict[str, Any] = {"rasterizer": bench.rasterizer, "clock_ms": lambda: 0}
    session = FitSession(world, Path(tempfile.mkdtemp()), params, bench.device, **given)
    session.read_ahead()
    fit = session._fit()
    bench.peak_gib()
    begun = time.perf_counter()
    while not fit.done:
        fit._one_step()
        if fit.step % 25 == 0:
            fit._losses.reported()
    bench.sync()
    return fit, time.perf_counter() - begun


def fit(bench: Bench) -> dict[str, Any]:
    """Fit the scene by the preset `quick`, ours and by gsplat's loop; PSNR and SSIM on every eighth image."""
    steps = 20 if bench.rehearse else 7000
    ours, seconds = our_fit(bench, steps)
    metrics = ours.measured().metrics
    found: dict[str, Any] = {"steps": steps, "steps_s": round(steps / seconds, 1), "peak_gib": bench.peak_gib()}
    found |= {"psnr": metrics.psnr, "ssim": metrics.ssim, "gaussians": metrics.n_gaussians}
    if bench.rehearse:
        return found
    start = ours.data.start
    train = [ours.data.train[index] for index in range(len(ours.data.train))]
    windows = (500, steps * 6 // 7, 100)
    place = (start.moved_to(bench.device), train, ours.data.scene_size, steps)
    peer = GsplatLoop(*place, cap=1_000_000, refine=windows, degree_every=1000)
    bench.peak_gib()
    begun = time.perf_counter()
    peer.run(steps)
    bench.sync()
    rate = steps / (time.perf_counter() - begun)
    peak = bench.peak_gib()
    scores, _ = measure(
        peer.gaussians, bench.rasterizer, ours.data.held_out, sh_degree=3, antialiased=False, expose=False
    )
    score = mean_score(scores)
    assert score is not None, "images were held out"
    found["gsplat"] = {"steps_s": round(rate, 1), "psnr": score.psnr, "ssim": score.ssim, "peak_gib": peak}
    return {**found, "ratio": round(found["steps_s"] / rate, 2)}


def million(bench: Bench) -> dict[str, Any]:
    """Take steps with a million Gaussians of degree 3 on an image of their own, in turn with gsplat's loop."""
    n, steps = (500, 2) if bench.rehearse else (1_000_000, 100)
    camera = some_camera(48, 36) if bench.rehearse else some_camera(1000, 750)
    true = some_gaussians(n, bench.device)
    with torch.no_grad():
        picture = bench.rasterizer(true, camera, sh_degree=3).colors.clamp(0, 1)
    shot = TrainingImage(camera, (255 * picture).round().to(torch.uint8), None, camera.width * camera.height)
    near = Gaussians(**{name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in true.tensors().items()})
    chosen = settings(SplatParams(device=bench.device.type, preset="quick"), bench.device.type)
    strategy = Mcmc(dataclasses.replace(chosen, refine_start=10**9), torch.Generator(bench.device).manual_seed(0))
    optimizer = SplatOptimizer(near.moved_to(bench.device))

    def ours() -> None:
        rendered = bench.rasterizer(optimizer.gaussians, camera, sh_degree=3)
        total = photo_loss(rendered.colors, shot.rgb, None, 0.2, n_counted=shot.n_counted)
        (total + penalty(optimizer.gaussians, 0.01, 0.01)).backward()
        optimizer.step(RATES)
        strategy.after_step(optimizer, [rendered], optimizer.n_steps, RATES["means"])

    bench.peak_gib()
    found: dict[str, Any] = {"gaussians": n, "steps_s": round(1000 / bench.ms(ours, steps), 1)}
    found["peak_gib"] = bench.peak_gib()
    if bench.rehearse:
        return found
    peer = GsplatLoop(near, [shot], 1.0, 10_000, cap=n, refine=None)
    rates = [1000 / bench.ms(ours, steps), 1000 / bench.ms(lambda: peer.run(1), steps)]
    again = [1000 / bench.ms(ours, steps), 1000 / bench.ms(lambda: peer.run(1), steps)]
    mean = [round((one + other) / 2, 1) for one, other in zip(rates, again, strict=True)]
    return {**found, "steps_s": mean[0], "gsplat_steps_s": mean[1], "ratio": round(mean[0] / mean[1], 2)}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {"loss": loss, "draw": draw, "fit": fit, "million": million}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--scene", type=Path, required=True)
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at toy size, without gsplat")
    given = parser.parse_args()
    device = torch.device("cpu" if given.rehearse else "cuda")
    rasterizer = CpuRasterizer() if given.rehearse else CudaRasterizer(kernels=given.kernels)
    bench = Bench(given.scene, device, rasterizer, given.rehearse)
    print(json.dumps(PARTS[given.part](bench)))


if __name__ == "__main__":
    main()
