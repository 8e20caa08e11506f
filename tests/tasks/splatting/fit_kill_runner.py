"""Runs a fit in forked processes that are killed at given events: `fit_kill_runner SCENE STRATEGY FOLDER=KILL,KILL...`.

Imports, kernels and images are made once, before the forks, on one thread: threads would not survive them.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from tasks.splatting.fit.scene import Scene
from tasks.splatting.fit.session import FitSession
from tasks.splatting.params import SplatParams
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tests.runners import attempts
from tests.tasks.splatting.fit_scene import make_scene


def attempt(scene: Scene, folder: Path, strategy: str, kill_at: int, seed: int) -> None:
    """Fit, the state going to disk at every event, until the n-th image is to be drawn; 0: to the end."""
    params = SplatParams(
        preset="quick", device="cpu", strategy=strategy, max_steps=150, cap_max=400, test_every=4, eval_every=40,
        refine_start=10, refine_every=20, refine_stop=140, reset_every=65,
        random_bkgd=True, exposure_opt=True, pose_opt=True,
    )  # fmt: skip
    torch.rand(seed)  # every process starts with other numbers; the seed of the run must win
    left = [kill_at]
    draw = CpuRasterizer(num_threads=1)

    def deadly(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(*args, **options)

    session = FitSession(
        scene,
        folder,
        params,
        torch.device("cpu"),
        rasterizer=deadly,
        clock_ms=lambda: time.time_ns() // 10**6,
        checkpoint_every_s=0.0,
    )
    for _ in session.run():
        pass


def main() -> None:
    """Make one attempt after the other, and print how each ended."""
    pictures, strategy = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    scene = make_scene(pictures)
    attempts(lambda folder, kill_at, number: attempt(scene, Path(folder), strategy, kill_at, number), sys.argv[3:])


if __name__ == "__main__":
    main()
