"""The demo: generates data, and runs the pipelines on it."""

import subprocess
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from deployments.runs.local import run_here
from deployments.runs.run_summary import print_outcome
from tasks.base.home import make_home
from tasks.base.startup import module_command
from tasks.base.workspace import staged
from tasks.run.display import bars

GROUP_BY = r"^(.*_rec\d+)"  # as tasks.signals.demo_data names its files; importing that takes seconds

SIGNALS: dict[str, Any] = {
    "split": {"group_by": GROUP_BY},
    "augment": {"methods": ["GaussNoise"]},
    "train": {
        "model": "resnet18",
        "pretrained": False,
        "image_size": 48,
        "batch_size": 32,
        "num_epochs": 4,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "device": "cpu",
    },
    "track": {"experiment": "demo"},
}


SCENE: dict[str, Any] = {
    "frames": {"n_frames": 60},
    "train": {"preset": "quick", "device": "cpu"},
    "export": {"seconds": 4},
    "track": {"experiment": "demo-splat"},
}


QUESTIONS: dict[str, Any] = {
    "ask": {"prompt": "What is on the picture?", "device": "cpu", "max_tokens": 16},
    "track": {"experiment": "demo-ask"},
}


# As much as two cores render and train on in fifteen minutes.
RECOGNITION: dict[str, Any] = {
    "render": {"train_scenes": 1300},
    "detector": {"device": "cpu", "num_epochs": 25},
    "index": {"device": "cpu"},
    "track": {"experiment": "demo-recognition"},
}


class Part(StrEnum):
    """A part of the demo."""

    signals = "signals"
    scene = "scene"
    recognition = "recognition"
    ask = "ask"


_LOOK_AT = {
    Part.signals: """
  Prefect   the run's timeline, its epoch table, the link to MLflow and the summary under Artifacts
  MLflow    experiment `demo`: curves by section under Model metrics; confusion matrix, worst mistakes and
            samples under Artifacts > report; the model and why it is champion under Models
Your own images: yard run classification --data FOLDER --device cpu --set train.pretrained=false""",
    Part.scene: """
  Prefect   the poses, the table of measurements and the summary under Artifacts
  MLflow    experiment `demo-splat`: PSNR and SSIM on held-out views under Model metrics, those views beside
            the truth as images, the camera path under Artifacts > poses, and under Artifacts > splat
            viewer.html to walk through the scene; it opens in any browser, without a network
Your own video: yard run splatting --data VIDEO_OR_FOLDER --device cpu --set train.preset=quick""",
    Part.recognition: """
  Prefect   the parts, the epoch tables of detector and index, and the summary under Artifacts
  MLflow    experiment `demo-recognition`: mean average precision and recall under Model metrics; scenes
            with boxes, precision-recall curves and the confusion of similar parts under Artifacts > report
Your own images, a box and a name for each part on them:
  yard run predict --data FOLDER_OF_IMAGES --device cpu --set predict.weights=models:/demo-recognition-index@champion \
      --set detect.weights=models:/demo-recognition-detector@champion
Your own parts: yard run recognition --data FOLDER_OF_MESHES --device cpu""",
    Part.ask: """
  MLflow    experiment `demo-ask`: the answers as a table and beside their pictures under Artifacts, each
            question under Traces; experiment `serving`: what the server did
Your own model: yard serve FOLDER_OF_A_MODEL --device cuda:0; its address is a page to ask in""",
}
"""What to look at after a part of the demo: where there, and how to do the same with data of one's own."""

_BY_DEFAULT = (Part.signals, Part.scene)  # the third takes three times as long as both, the last one talks nonsense


def run_demo(folder: Path | None, part: Part | None) -> None:
    """Make data unless they are there, run the pipelines on them, print what to look at.

    Args:
        folder: for the data; TRAINYARD_HOME/demo without it.
        part: only this part; the recognition of parts and the questions run only where they are named.
    """
    target = (folder or make_home() / "demo").absolute()
    if part is None:
        for part in _BY_DEFAULT:  # each in a process of its own: Prefect reads once where its server is
            command = module_command("deployments.cli.app", "demo", part.value, "--folder", str(target))
            if code := subprocess.run(command, check=False).returncode:
                raise SystemExit(code)
        return
    if part is Part.signals:
        _run_signals(target)
    elif part is Part.scene:
        _run_scene(target)
    elif part is Part.recognition:
        _run_recognition(target)
    else:
        _run_questions(target / "ask")
    Console().print(f"\nWhat to look at, after `yard up`:{_LOOK_AT[part]}", highlight=False, soft_wrap=True)


def _run_signals(target: Path) -> None:
    if not (target / "images").is_dir():
        _make_signals(target)
    print_outcome(run_here("classification", {**SIGNALS, "data": str(target / "images")}, run_name="demo"))


def _run_scene(target: Path) -> None:
    video = target / "film" / "demo.mp4"
    if not video.is_file():
        from tasks.splatting.demo.scene import make_demo_video

        Console(stderr=True).print("filming a small room that does not exist, along a known path", highlight=False)
        make_demo_video(video.parent, seed=0)
    print_outcome(run_here("splatting", {**SCENE, "data": str(video)}, run_name="demo-splat"))


def _run_recognition(target: Path) -> None:
    meshes, strangers = target / "parts", target / "unknown-parts"
    if not strangers.is_dir():
        from tasks.recognition.demo.parts import make_demo_parts, make_unknown_parts

        Console(stderr=True).print("making ten parts of similar look, and eight that nobody learns", highlight=False)
        with staged(meshes) as folder:
            make_demo_parts(folder)
        with staged(strangers) as folder:
            make_unknown_parts(folder)
    print_outcome(run_here("recognition", {**RECOGNITION, "data": str(meshes)}, run_name="demo-parts"))


def _run_questions(target: Path) -> None:
    model, pictures = target / "tiny", target / "pictures"
    if not pictures.is_dir():
        from tasks.vision_language.demo_pictures import make_demo_pictures
        from tasks.vision_language.tiny_model import make_tiny_model

        _tell("making a tiny model with random weights, which talks nonsense, and two pictures")
        with staged(model) as folder:
            make_tiny_model(folder)
        with staged(pictures) as folder:
            make_demo_pictures(folder)
    _ask_served(model, sorted(pictures.iterdir()))
    _tell("asks about every picture of the folder")
    print_outcome(run_here("describe", _with_model(model, pictures), run_name="demo-ask"))


def _with_model(model: Path, pictures: Path) -> dict[str, Any]:
    return {**QUESTIONS, "data": str(pictures), "ask": {**QUESTIONS["ask"], "model": str(model)}}


def _ask_served(model: Path, pictures: list[Path]) -> None:
    """Serve the model for two questions of one talk, and print them with the answers as they come."""
    from deployments.runs.served_models import serving_here
    from tasks.vision_language.engine_process import free_port
    from tasks.vision_language.talk import Talk, image_url, printable

    _tell("serves it: yard serve")
    with serving_here(model, "cpu", free_port()) as url, closing(Talk(url, max_tokens=24)) as talk:
        _tell(f"asks at {url}: yard chat {' '.join(path.name for path in pictures)}")
        for question, shown in (("What is on the pictures?", pictures), ("Are you sure?", [])):
            typer.echo(f"> {question}")
            for piece in talk.ask(question, [image_url(path) for path in shown]):
                typer.echo(printable(piece), nl=False)
            typer.echo("")


def _tell(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def _make_signals(target: Path) -> None:
    from tasks.signals.demo_data import make_demo_dataset

    console = Console(stderr=True)
    console.print("making radio signals of five kinds, as raw IQ, and their spectrograms", highlight=False)
    with bars() as shown:
        for progress in make_demo_dataset(target):
            shown.move("signals", progress.done, progress.total)
