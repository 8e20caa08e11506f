"""A tiny model with its configuration, and images to show it."""

import json

import cv2
import numpy as np
import pytest
import torch

from tasks.classification.models import build_model

CLASSES = ["calm", "loud", "odd"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return the file of weights of a network for 32 px and three classes, with config.json beside it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    torch.save(build_model("mobilenet_v3_small", len(CLASSES), 32).state_dict(), folder / "best.pt")
    config = {"model": "mobilenet_v3_small", "classes": CLASSES, "image_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "best.pt"


@pytest.fixture
def pictures(tmp_path):
    """Return a folder with six images, two of them deeper down."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str((folder if i < 4 else folder / "more") / f"{i}.png"), pixels)
    return folder
