"""The first thing a newcomer runs: signals made up on the spot, the whole pipeline on them, and where to look."""

from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.local import run_here
from deployments.outcome import print_outcome
from tasks.display import bars
from tasks.workspace import home

GROUP_BY = r"^(.*_rec\d+)"  # as tasks.classification.demo_data names its files; importing that takes seconds

PARAMETERS: dict[str, Any] = {
    "split": {"group_by": GROUP_BY},
    "augment": {"methods": ["GaussNoise"]},
    "train": {
        "model": "resnet18",
        "pretrained": False,
        "image_size": 64,
        "batch_size": 32,
        "num_epochs": 5,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "device": "cpu",
    },
    "track": {"experiment": "demo"},
}


def run_demo(folder: Path | None) -> None:
    """Make the signals unless they are there, run the classification pipeline on them, print what to look at."""
    target = (folder or home() / "demo").absolute()
    if not (target / "images").is_dir():
        _make_signals(target)
    run_id = run_here("classification", {**PARAMETERS, "data": str(target / "images")}, run_name="demo")
    print_outcome(run_id)
    console = Console()
    console.print(
        "\nWhat to look at, after `yard up`:\n"
        "  Prefect   the run's timeline, its epoch table, the link to MLflow and the summary under Artifacts\n"
        "  MLflow    experiment `demo`: curves by section under Model metrics; confusion matrix, worst mistakes and\n"
        "            samples under Artifacts > report; the model and why it is champion under Models\n"
        "Your own images: yard run classification --data FOLDER --device cpu"
        " --set train.pretrained=false",
        highlight=False,
        soft_wrap=True,
    )


def _make_signals(target: Path) -> None:
    from tasks.classification.demo_data import make_demo_dataset

    console = Console(stderr=True)
    console.print("making radio signals of five kinds, as raw IQ, and their spectrograms", highlight=False)
    with bars() as shown:
        for progress in make_demo_dataset(target):
            shown.move("signals", progress.done, progress.total)
