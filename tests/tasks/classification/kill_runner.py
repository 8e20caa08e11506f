"""Runs a training in forked processes that are killed at given batches: `kill_runner DATASET N_EPOCHS RUN=KILL,...`.

The heavy imports are made once, before the forks; nothing is computed in the parent.
"""

import logging
import os
import signal
import sys
from pathlib import Path

import torch

import tasks.classification.mlflow_logging
import tasks.classification.training.session
from tasks.classification import steps
from tasks.classification.params import TrainParams
from tasks.run import mlflow_run, step_context
from tasks.run.display import Bars
from tests.runners import attempts


class DeadlyBars(Bars):
    """Kills the process at the n-th batch that it is shown."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def move(self, name: str, done: int, total: int, caption: str = "") -> None:
        if name != "train":
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(dataset: Path, run: str, n_epochs: int, kill_at: int, seed: int) -> None:
    params = TrainParams(
        model="mobilenet_v3_small",
        pretrained=False,
        image_size=32,
        batch_size=4,
        num_epochs=n_epochs,
        learning_rate=1e-3,
        schedule="cosine",
        mixup=0.2,
        ema_decay=0.9,
        precision="fp32",
        device="cpu",
        checkpoint_every_s=0.15,
    )
    from tasks.base.workspace import cache_dir
    from tasks.classification.training.session import TrainingSession

    torch.rand(seed)  # every process starts with other numbers; the seed of the run must win
    folder = step_context.step_dir(run, "training")
    with mlflow_run.open_mlflow_run(folder, {"lr": 1}, "cpu", "kill", run, free=(), last=True) as (
        tracker,
        device,
        log,
    ):
        log = logging.getLogger("quiet")
        session = TrainingSession(dataset, folder, params, device, cache=cache_dir("."), clock_ms=step_context.now_ms)
        with steps.Page("training", "Training") as page:
            recorder = tasks.classification.mlflow_logging.TrainingRecorder
            recorder(session, tracker, page, DeadlyBars(kill_at), log).run()


def main() -> None:
    dataset, n_epochs = Path(sys.argv[1]), int(sys.argv[2])
    attempts(lambda run, kill_at, number: attempt(dataset, run, n_epochs, kill_at, number), sys.argv[3:])


if __name__ == "__main__":
    main()
