"""A whole recognition of the demo's ten parts on the CPU, and the rate at which views are rendered.

The run is that of `yard demo recognition`: recall@1 on unseen views, mAP@50 on unseen scenes, the share of
eight parts refused that nothing was trained or calibrated on, the share of known views lost, seconds.

The rate is views/s of one core at 256 px, against a bare embreex loop of the same rays: one through each pixel of the
same views, and those that the renderer itself casts at the same parts, four for each pixel at an edge and one to the
lamp or the sky from what is not open to them anyway. Beside it stands the ratio to a loop of the pixels' rays alone.

A view is a finished JPEG file: rays, light, shadows, smooth edges, background, noise. The bare loop casts float32 rays,
made beforehand or recorded, at scenes built as the renderer builds them; of a first hit it takes face, distance and
normal, of a shadow ray whether anything was hit, and does nothing with them. Both sides work on the same ten parts and
cameras in one thread, in turns, and are timed by the time of that thread. The last line is JSON.

    python benchmarks/recognition.py [--views 8] [--rounds 5] [--no-run]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from deployments.runs.demo import RECOGNITION
from tasks.base.progress import finish
from tasks.images.images import read_rgb
from tasks.recognition.demo.parts import make_demo_parts, make_unknown_parts
from tasks.recognition.index.apply import load_index
from tasks.recognition.meshes.parts import Part, read_parts
from tasks.recognition.params import RenderParams
from tasks.recognition.render.hits import pixel_rays
from tasks.recognition.render.rendering import render_views
from tasks.recognition.render.solids import Solid, make_solids
from tasks.recognition.render.studio import make_studio
from tasks.recognition.render.views import ViewPose, place_view, render_view, view_poses

ROOT = Path(__file__).parents[1]
SIDE = 256
Floats = NDArray[np.float32]
View = tuple[Solid, ViewPose, list[int]]  # and the key of its random numbers
Rays = Callable[[], object]  # casts some


def views_of(parts: Sequence[Part], n_views: int) -> list[View]:
    """Return n views of each part."""
    poses = view_poses(n_views, np.random.default_rng(0))
    return [(solid, pose, [k, i]) for k, solid in enumerate(make_solids(parts)) for i, pose in enumerate(poses)]


def through_pixels(views: Sequence[View], params: RenderParams) -> list[Rays]:
    """Return what casts a ray through each pixel of each view."""
    rays: list[Rays] = []
    for solid, pose, key in views:
        placed, camera = place_view(solid, pose, params, np.random.default_rng(key))
        flat = pixel_rays(camera)
        ways = np.ascontiguousarray(np.hstack([flat, np.ones((len(flat), 1), np.float32)]) @ placed.turn, np.float32)
        starts = np.ascontiguousarray(np.broadcast_to(placed.inside(np.zeros(3, np.float32)), ways.shape))
        rays.append(partial(solid.scene.run, starts, ways, output=1))
    return rays


class Recorded:
    """A scene that keeps the rays cast at it."""

    def __init__(self, scene: EmbreeScene, rays: list[Rays]) -> None:
        self.scene, self.rays = scene, rays

    def run(self, starts: Floats, ways: Floats, **settings: Any) -> Any:
        kept = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in settings.items()}
        self.rays.append(partial(self.scene.run, np.array(starts), np.array(ways), **kept))
        return self.scene.run(starts, ways, **settings)


def cast_by(render: Callable[[], None], solids: Sequence[Solid]) -> list[Rays]:
    """Return what casts again the rays that rendering casts at some solids."""
    rays: list[Rays] = []
    scenes = [solid.scene for solid in solids]
    for solid in solids:
        solid.scene = Recorded(solid.scene, rays)
    render()
    for solid, scene in zip(solids, scenes, strict=True):
        solid.scene = scene
    return rays


def speed(work: Callable[[], None], n: int) -> float:
    """Return how many of n pieces this thread does in a second."""
    start = time.thread_time()
    work()
    return n / (time.thread_time() - start)


def rendering_rates(parts: Sequence[Part], n_views: int, n_rounds: int) -> dict[str, list[float]]:
    """Return the views/s of the renderer and of both bare loops in every round."""
    params = RenderParams(view_size=SIDE)
    studio, views = make_studio(params.seed), views_of(parts, n_views)

    def ours() -> None:
        for solid, pose, key in views:
            render_view(solid, pose, studio, params, np.random.default_rng(key))

    ours()  # kernels are compiled
    pixels, others = through_pixels(views, params), cast_by(ours, [solid for solid, *_ in views[::n_views]])

    def theirs(rays: Sequence[Rays]) -> None:
        for cast in rays:
            cast()

    sides: dict[str, Callable[[], None]] = {
        "pixels' rays": partial(theirs, pixels),
        "all rays": partial(theirs, [*pixels, *others]),
        "ours": ours,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(n_rounds):
        for name, work in sides.items():
            rates[name].append(speed(work, len(views)))
    return rates


def measure_rendering(options: argparse.Namespace) -> dict[str, float]:
    """Return the figures of rendering."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_demo_parts(Path(folder))
        rates = rendering_rates(read_parts(Path(folder)), options.views, options.rounds)
    print("views/s          median   lowest  highest")
    for name, values in rates.items():
        print(f"{name:<14}{statistics.median(values):>9.1f}{min(values):>9.1f}{max(values):>9.1f}")
    return {
        "views_per_s": round(statistics.median(rates["ours"]), 1),
        "bare_views_per_s": round(statistics.median(rates["all rays"]), 1),
        "views_ratio": ratio(rates["ours"], rates["all rays"]),
        "ratio_to_pixels_rays": ratio(rates["ours"], rates["pixels' rays"]),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: neighbours in time share what else the machine did."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def measure_run() -> dict[str, float]:
    """Return the figures of a recognition of the demo's parts, in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder:
        home, meshes, strangers = (Path(folder) / name for name in ("home", "parts", "strangers"))
        for place in (meshes, strangers):
            place.mkdir()
        make_demo_parts(meshes)
        make_unknown_parts(strangers)
        parameters = Path(folder) / "parameters.json"
        parameters.write_text(json.dumps(RECOGNITION))
        command = [sys.executable, "-m", "deployments.cli.app", "run", "recognition", "--data", str(meshes)]
        environ = {**os.environ, "TRAINYARD_HOME": str(home)}
        started = time.perf_counter()
        subprocess.run([*command, "-f", str(parameters)], check=True, env=environ, cwd=ROOT, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        (run,) = [path.parent for path in home.glob("runs/*/rendered")]
        detector, index = read_figures(run / "detector")["rendered"], read_figures(run / "index")
        refused = share_refused(run / "index" / "index", strangers, Path(folder) / "views")
    return {
        "recall1": round(index["recall_1"], 4),
        "map50": round(detector["map50"], 4),
        "unknown_refused": round(refused, 4),
        "known_lost": round(index["known_lost"], 4),
        "seconds": round(seconds, 1),
    }


def read_figures(training: Path) -> dict[str, Any]:
    """Return the figures that a training was graded with."""
    figures: dict[str, Any] = json.loads((training / "report" / "metrics.json").read_text())
    return figures


def share_refused(index: Path, meshes: Path, views: Path) -> float:
    """Return the share of views of parts that an index has never seen for which it says "unknown"."""
    views.mkdir()
    finish(render_views(meshes, views, 60, RenderParams(seed=7)))
    crops = [read_rgb(path) for path in sorted(views.rglob("*.jpg"))]
    return statistics.mean(found.part is None for found in load_index(index, torch.device("cpu")).name(crops))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--views", type=int, default=8, help="of each part")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-run", action="store_true", help="the rate of rendering alone")
    options = parser.parse_args()
    figures = measure_rendering(options)
    if not options.no_run:
        figures |= measure_run()
    for name, value in figures.items():
        print(f"{name:<22}{value:>10}")
    print(json.dumps({"ratio": figures["views_ratio"], **figures}))


if __name__ == "__main__":
    main()
