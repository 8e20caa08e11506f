"""How much faster the CPU rasteriser draws and differentiates an image than the same formula in plain PyTorch.

Both sides draw the same Gaussians with the same number of threads, in turns; `ratio` is the median over scenes of
(seconds of PyTorch) / (seconds of ours), forward and backward together. A second table says where a training step of
ours spends its time: drawing there and back, the loss (0.8 L1 + 0.2 (1 - SSIM)), and Adam over the six tensors.

    python benchmarks/splat_cpu.py [--repeats 3] [--threads 1] [--gaussians 10000 20000 50000] [--widths 200 270 400]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.splatting.loss.cpu_loss import cpu_photometric_loss
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rendered
from tests.tasks.splatting.reference import render

SH_DEGREE = 3
Draw = Callable[[Gaussians, Camera], Rendered]


def make_scene(n: int) -> Gaussians:
    """Return Gaussians that fill a box as they do after training: most cover a few to some dozens of pixels."""
    rng = np.random.default_rng(0)
    # 0.02 is 1.2 pixels in an image of 200 pixels' width; more Gaussians are smaller ones.
    sizes = np.log(0.02 * (20_000 / n) ** 0.5) + rng.normal(0, 0.5, (n, 1)) + rng.normal(0, 0.4, (n, 3))
    values = {
        "means": rng.uniform([-1.8, -3.2, -1], [1.8, 3.2, 1], (n, 3)),
        "scales": sizes,
        "quats": rng.normal(size=(n, 4)),
        "opacities": rng.normal(0, 2, n),
        "sh0": rng.normal(size=(n, 1, 3)),
        "shN": rng.normal(0, 0.1, (n, (SH_DEGREE + 1) ** 2 - 1, 3)),
    }
    return Gaussians(**{name: torch.tensor(v, dtype=torch.float32).requires_grad_() for name, v in values.items()})


def make_camera(width: int) -> Camera:
    """Return a camera that sees most of the box, upright as telephones are held."""
    height, pose = round(width * 1.785), np.eye(4)
    pose[2, 3] = 4
    return Camera("bench.png", width, height, 1.2 * width, 1.2 * width, width / 2, height / 2, pose)


def seconds(draw: Draw, gaussians: Gaussians, camera: Camera, weights: torch.Tensor) -> tuple[float, float]:
    """Return the seconds of one image forward and backward."""
    for tensor in gaussians.tensors().values():
        tensor.grad = None
    start = time.perf_counter()
    shown = draw(gaussians, camera)
    middle = time.perf_counter()
    shown.colors.backward(weights)
    return middle - start, time.perf_counter() - middle


def compare(draws: dict[str, Draw], n: int, width: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of every repeat of both sides, taken in turns after one to warm up."""
    gaussians, camera = make_scene(n), make_camera(width)
    weights = torch.rand(camera.height, camera.width, 3, generator=torch.Generator().manual_seed(0))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in draws}
    for repeat in range(repeats + 1):
        for name, draw in draws.items():
            found = seconds(draw, gaussians, camera, weights)
            if repeat:
                taken[name].append(found)
    return taken


def step_shares(draw: Draw, n: int, width: int, threads: int, steps: int) -> dict[str, float]:
    """Return the median ms of the parts of a training step, and the steps per second."""
    gaussians, camera = make_scene(n), make_camera(width)
    target = torch.rand(camera.height, camera.width, 3, generator=torch.Generator().manual_seed(0))
    adam = torch.optim.Adam(list(gaussians.tensors().values()), lr=1e-4, fused=True)
    parts: dict[str, list[float]] = {"draw": [], "loss": [], "draw back": [], "adam": []}
    for _ in range(steps):
        times = [time.perf_counter()]
        shown = draw(gaussians, camera)
        times.append(time.perf_counter())
        colors = shown.colors.detach().requires_grad_()
        cpu_photometric_loss(colors, target, 0.2, num_threads=threads).backward()
        times.append(time.perf_counter())
        shown.colors.backward(colors.grad)
        times.append(time.perf_counter())
        adam.step()
        adam.zero_grad()
        times.append(time.perf_counter())
        for part, begin, end in zip(parts, times, times[1:], strict=False):
            parts[part].append(end - begin)
    shares = {part: 1000 * statistics.median(values) for part, values in parts.items()}
    return shares | {"it/s": 1000 / sum(shares.values())}


def print_steps(
    draw: Draw, scenes: list[tuple[int, int]], threads: int, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Print the table of training steps; return the shares of time outside the rasteriser, and the steps per second."""
    print("a training step of ours, ms")
    print(
        f"{'gaussians':>9}{'width':>7}{'draw':>8}{'loss':>8}{'draw back':>11}{'adam':>8}{'it/s':>8}{'not drawing':>13}"
    )
    outside: dict[str, float] = {}
    rates: dict[str, float] = {}
    for n, width in scenes:
        part = step_shares(draw, n, width, threads, 5 * repeats)
        share = (part["loss"] + part["adam"]) * part["it/s"] / 1000
        outside[f"{n}@{width}"], rates[f"{n}@{width}"] = round(share, 3), round(part["it/s"], 1)
        row = f"{n:>9}{width:>7}{part['draw']:>8.1f}{part['loss']:>8.1f}{part['draw back']:>11.1f}{part['adam']:>8.1f}"
        print(f"{row}{part['it/s']:>8.1f}{100 * share:>12.0f}%", flush=True)
    return outside, rates


def main() -> None:
    """Measure every scene and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[10_000, 20_000, 50_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[200, 270, 400])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours = CpuRasterizer(num_threads=args.threads)
    draws: dict[str, Draw] = {
        "torch": lambda g, camera: render(g, camera, sh_degree=SH_DEGREE)[0],
        "ours": lambda g, camera: ours(g, camera, sh_degree=SH_DEGREE),
    }
    scenes = [(n, width) for n in args.gaussians for width in args.widths]
    ratios = {}
    print(f"forward + backward ms, {args.threads} thread(s), median of {args.repeats}")
    print(f"{'gaussians':>9}{'width':>7}{'torch':>18}{'ours':>16}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for n, width in scenes:
        taken = compare(draws, n, width, args.repeats)
        totals = {name: [sum(pair) for pair in pairs] for name, pairs in taken.items()}
        found = [a / b for a, b in zip(totals["torch"], totals["ours"], strict=True)]
        ratios[f"{n}@{width}"] = round(statistics.median(found), 1)
        cells = {}
        for name, pairs in taken.items():
            cells[name] = " + ".join(f"{1000 * statistics.median(part):.1f}" for part in zip(*pairs, strict=True))
        row = f"{n:>9}{width:>7}{cells['torch']:>18}{cells['ours']:>16}"
        print(f"{row}{ratios[f'{n}@{width}']:>8.1f}{min(found):>8.1f}{max(found):>8.1f}", flush=True)
    outside, rates = print_steps(draws["ours"], scenes, args.threads, args.repeats)
    ratio = round(statistics.median(ratios.values()), 1)
    print(json.dumps({"ratio": ratio, "ratios": ratios, "steps_per_s": rates, "outside_share": outside}))


if __name__ == "__main__":
    main()
