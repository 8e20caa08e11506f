"""Small data and models that tests of several packages use."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tasks.base.errors import StopAsked
from tasks.classification.models import build_model

CONFIG = {
    "model": "mobilenet_v3_small",
    "classes": ["calm", "loud"],
    "image_size": 32,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""Of the model of `write_weights`."""


SMALL_TRAINING: dict[str, Any] = {
    "model": "mobilenet_v3_small",
    "image_size": 32,
    "pretrained": False,
    "precision": "fp32",
    "n_workers": 1,
}
"""Parameters of a training of seconds."""


def write_bands(root: Path) -> Path:
    """Write 24 images of two classes, dark noise and bright noise; return the folder."""
    for number, name in enumerate(CONFIG["classes"]):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(100 * number + i).integers(0, 60, (40, 40, 3)) + 150 * number
            cv2.imwrite(str(root / name / f"{i:02}.png"), pixels.astype(np.uint8))
    return root


def small_classification(n_epochs: int) -> dict[str, Any]:
    """Return parameters of a classification of the bands on a GPU, which registers no model."""
    return {
        "split": {"train_ratio": 0.5, "val_ratio": 0.25},
        "augment": {"enabled": False},
        "train": {**SMALL_TRAINING, "num_epochs": n_epochs, "device": "cuda"},
        "track": {"experiment": "bands"},
        "evaluate": {"register_model": False},
    }


def write_subsets(root: Path, side: int, **counts: int) -> Path:
    """Write subsets of noise that is tinted in class a and b otherwise; return the folder.

    Args:
        root: gets a folder for each subset.
        side: of the images, pixels.
        counts: images of each class, by subset.
    """
    rng = np.random.default_rng(0)
    for subset, count in counts.items():
        for number, i in itertools.product((0, 1), range(count)):
            path = root / subset / "ab"[number] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 150, (side, side, 3), dtype=np.uint8)
            image[..., number] += 100
            cv2.imwrite(str(path), image)
    return root


def write_weights(folder: Path) -> Path:
    """Write an untrained model with its configuration; return the file of its weights."""
    torch.manual_seed(0)
    torch.save(build_model("mobilenet_v3_small", 2, 32).state_dict(), folder / "best.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder / "best.pt"


def run_until(session: Any, stops: Callable[[list[Any]], bool]) -> list[Any]:
    """Return the events of a training up to the stop; `stops` says by the events so far whether to ask for it."""
    seen: list[Any] = []
    session._stop_asked = lambda: stops(seen)
    with pytest.raises(StopAsked):
        for event in session.run():
            seen.append(event)
    return seen


def finished(make: Callable[[], Any]) -> tuple[Any, Any]:
    """Return a session that has trained to its end, and another one of its folder that has read what it left."""
    done = make()
    list(done.run())
    again = make()
    assert again.finished
    again.load_finished()
    return done, again


def after(n: int, kind: type) -> Callable[[list[Any]], bool]:
    """Return what stops a training once it has given n events of a kind."""
    return lambda seen: sum(isinstance(event, kind) for event in seen) >= n
