"""Writes images with their boxes as COCO JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.base.workspace import write_atomic
from tasks.recognition.coco.annotations import AnnotatedImage, Annotation


def write_coco(path: Path, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> None:
    """Write a COCO JSON file; images are named relative to its folder.

    Raises:
        StorageError: it cannot be written.
    """
    content = coco_content(images, classes, path.parent)
    write_atomic(path, (json.dumps(content, separators=(",", ":")) + "\n").encode())


def coco_content(images: Sequence[AnnotatedImage], classes: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the content of a COCO JSON file that lies in `folder`; the id of a category is its class number + 1."""
    pairs = [(number, one) for number, image in enumerate(images, 1) for one in image.annotations]
    return {
        "images": [_image(number, image, folder) for number, image in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": [_annotation(number, image, one) for number, (image, one) in enumerate(pairs, 1)],
    }


def _image(number: int, image: AnnotatedImage, folder: Path) -> dict[str, Any]:
    name = Path(os.path.relpath(image.path, folder)).as_posix()
    return {"id": number, "file_name": name, "width": image.width, "height": image.height}


def _annotation(number: int, image: int, one: Annotation) -> dict[str, Any]:
    left, top, right, bottom = one.box
    return {
        "id": number,
        "image_id": image,
        "category_id": one.label + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": one.area,
        "iscrowd": int(one.crowd),
        **one.extra,
    }
