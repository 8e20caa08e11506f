"""A data set of two parts in a second: discs and squares on noise, as a rendering lays it out."""

import json

import cv2
import numpy as np
import pytest

from tasks.recognition.coco.annotations import AnnotatedImage, Annotation
from tasks.recognition.coco.write_coco import write_coco

PARTS = ["disc", "square"]
SIDE = 64


def scene(rng):
    """Return an image and its annotations: one disc and one square, bright on dark noise."""
    image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    annotations = []
    for label, left in enumerate(rng.permutation([2, 34])):
        size, x, y = int(rng.integers(16, 26)), int(left + rng.integers(0, 4)), int(rng.integers(2, 34))
        colour = [int(value) for value in rng.integers(150, 255, 3)]
        if label:
            cv2.rectangle(image, (x, y), (x + size - 1, y + size - 1), colour, -1)
        else:
            cv2.circle(image, (x + size // 2, y + size // 2), size // 2, colour, -1)
        annotations.append(Annotation(label, (x, y, x + size, y + size), float(size * size)))
    return image, tuple(annotations)


def write_scenes(folder, n, seed):
    """Write scenes with their annotations; return them."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images = []
    for number in range(n):
        pixels, annotations = scene(rng)
        path = folder / "images" / f"{number:05d}.png"
        cv2.imwrite(str(path), pixels)
        images.append(AnnotatedImage(path, SIDE, SIDE, annotations))
    write_coco(folder / "annotations.json", images, PARTS)
    return images


def write_dataset(folder, numbers):
    """Write the data set into a folder, so many scenes in each subset; return the folder."""
    for seed, (subset, n) in enumerate(numbers.items()):
        write_scenes(folder / "scenes" / subset, n, seed)
    (folder / "parts.json").write_text(json.dumps({"parts": [{"name": name} for name in PARTS], "distractors": []}))
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The folder of a small rendered data set."""
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": 24, "val": 6, "test": 8})
