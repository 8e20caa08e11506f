"""Writes what a training and a fit are given in tests of whole runs."""

import itertools
from pathlib import Path

import cv2
import numpy as np

from tasks.splatting.capture.frame_table import MODEL
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tests.tasks.splatting.fit_scene import make_scene


def write_images(folder: Path) -> Path:
    """Write eight images of noise for each subset and class; return the folder."""
    for part, label, number in itertools.product(("train", "val"), "ab", range(8)):
        path = folder / part / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return folder


def write_scene(folder: Path) -> Path:
    """Write images of known Gaussians and their cameras, as a scene is prepared; return the folder."""
    scene = make_scene(folder / "images")
    cameras = tuple(view.camera for view in scene.views)
    write_model(folder / MODEL, PinholeModel(cameras, scene.points, scene.colors))
    return folder
