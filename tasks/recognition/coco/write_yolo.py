"""Writes the boxes of images as the text files that YOLO tools read."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from tasks.base.workspace import storage_errors
from tasks.recognition.coco.annotations import AnnotatedImage


def write_yolo(folder: Path, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> None:
    """Write labels/<image>.txt for each image and data.yaml with the names; an image without parts gets an empty file.

    Args:
        folder: gets `labels/` and `data.yaml`; the images belong into `images/` beside them.
        images: of different names.
        classes: by number.

    Raises:
        StorageError: it cannot be written.
    """
    labels = folder / "labels"
    with storage_errors(labels):
        labels.mkdir(parents=True, exist_ok=True)
        for image in images:
            text = "".join(f"{line}\n" for line in yolo_lines(image))
            (labels / f"{image.path.stem}.txt").write_text(text, encoding="utf-8")
        content = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
        (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def yolo_lines(image: AnnotatedImage) -> list[str]:
    """Return a line for each box: class, centre, width and height as shares of the image."""
    lines = []
    for one in image.annotations:
        left, top, right, bottom = one.box
        values = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        sides = image.width, image.height, image.width, image.height
        shares = [f"{value / side:.6f}" for value, side in zip(values, sides, strict=True)]
        lines.append(" ".join([str(one.label), *shares]))
    return lines
