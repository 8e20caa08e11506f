"""A data set of views drawn in no time: three plane figures as parts, four others as shapes that are none."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from tasks.recognition.index.building import building
from tasks.recognition.index.training.session import IndexSession
from tasks.recognition.params import IndexParams

PARTS = ["bar", "disc", "ring"]
OTHERS = {"cross": "fit", "dots": "calibrate"}
SIZE = 40


def draw(name, rng):
    image = np.full((SIZE, SIZE, 3), rng.integers(0, 90, 3), dtype=np.uint8)
    colour = tuple(int(value) for value in rng.integers(150, 255, 3))
    middle, turn = (SIZE // 2, SIZE // 2), rng.uniform(0, np.pi)
    end = (14 * np.cos(turn), 14 * np.sin(turn))
    lines = {"bar": [end], "cross": [end, (-end[1], end[0])]}.get(name, [])
    for x, y in lines:
        cv2.line(image, (round(20 - x), round(20 - y)), (round(20 + x), round(20 + y)), colour, 5)
    if name in ("disc", "ring"):
        cv2.circle(image, middle, 14, colour, -1 if name == "disc" else 3)
    if name == "dots":
        for sign in (-1, 1):
            cv2.circle(image, (round(20 + sign * end[0]), round(20 + sign * end[1])), 5, colour, -1)
    return image, (np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2))


def add_views(root, folder, name, n, seed, rows):
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    (root / folder).mkdir(parents=True)
    for number in range(n):
        image, quaternion = draw(name, rng)
        path = f"{folder}/{number:05d}.jpg"
        cv2.imwrite(str(root / path), image[..., ::-1])
        rows.append([path, name, *quaternion])


def write_poses(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "part", "w", "x", "y", "z"], *rows])


def write_dataset(root):
    """Write the data set into a folder; return the folder."""
    rows = []
    for seed, (subset, n) in enumerate({"train": 24, "val": 6, "test": 8}.items()):
        for name in PARTS:
            add_views(root, f"views/{subset}/{name}", name, n, seed, rows)
    for name in OTHERS:
        add_views(root, f"views/distractors/{name}", name, 12, 9, rows)
    write_poses(root / "views" / "poses.csv", rows)
    described = {
        "parts": [{"name": name} for name in PARTS],
        "distractors": [{"name": name, "use": use} for name, use in OTHERS.items()],
    }
    (root / "parts.json").write_text(json.dumps(described))
    return root


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="session")
def params():
    return IndexParams(
        device="cpu",
        image_size=32,
        dimension=16,
        batch_size=16,
        num_epochs=6,
        learning_rate=4e-3,
        precision="fp32",
        crop_jitter=0.05,
        color_jitter=0.2,
        occlusion=0.0,
        blur=0.1,
        ema_decay=0.9,
        quarter_turns=False,  # else four times the work also for the export
        known_lost=0.05,
        n_workers=1,
    )


@pytest.fixture(scope="session")
def trained(dataset, params, tmp_path_factory):
    """The folder of a training with its index."""
    folder = tmp_path_factory.mktemp("trained")
    options = {"cache": folder / "cache", "clock_ms": lambda: 0}
    session = IndexSession(dataset, folder, params, torch.device("cpu"), **options)
    list(session.run())
    list(building(session.views, folder, params, torch.device("cpu"), print))
    return folder


@pytest.fixture(scope="session")
def dino(tmp_path_factory):
    """A folder of transformers with a tiny model of random weights."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3]}))
    return folder
