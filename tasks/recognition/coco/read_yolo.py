"""Reads folders of images with the text files that YOLO tools write: a line for each box."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.base.errors import DatasetError
from tasks.base.outside import MIB, PARAMETER_BYTES, parse_yaml, read_text
from tasks.recognition.coco.annotations import AnnotatedImage, AnnotatedSet, Annotation, Corners, bounds, clipped
from tasks.recognition.coco.files import ImageFiles, stored_size
from tasks.recognition.coco.names import class_numbers
from tasks.recognition.coco.subsets import subset_of

NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "labels/classes.txt")
"""Where the names of the classes stand: ultralytics and Roboflow, Label Studio and labelImg, CVAT."""
_LABEL_BYTES = 16 * MIB
_SLACK = 0.01  # tools round, and draw a little beyond the edge


def find_names(folder: Path) -> Path | None:
    """Return the file with the names of the classes, None where there is none."""
    return next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)


def read_yolo(folder: Path, classes: Sequence[str] | None = None) -> AnnotatedSet:
    """Return the images below a folder with their boxes.

    The lines for `a/images/b.jpg` stand in `a/labels/b.txt`, else in a text file beside the image. A line is class,
    centre, width and height of a box, or class and the points of a polygon, all as shares of the image. An image
    without a text file, or with an empty one, shows no part.

    Args:
        folder: holds one of `NAME_FILES`, images and text files.
        classes: names of the parts; None: those of the file.

    Raises:
        DatasetError: there are no names, images or text files, a name is that of no part, or a line is of another form.
    """
    source = find_names(folder)
    if source is None:
        raise DatasetError(f"found none of {', '.join(NAME_FILES)}, need one with the names of the classes: {folder}")
    names = read_names(source)
    images = ImageFiles(folder).paths
    if not images:
        raise DatasetError(f"found no image, need at least one: {folder}")
    known = list(classes) if classes is not None else names
    texts = {path: text for path in images if (text := _text_of(path)) is not None}
    if not texts:
        raise DatasetError(f"found {len(images)} images and no text file for any, need labels/*.txt: {folder}")
    rows = {path: _read_rows(text, len(names)) for path, text in texts.items()}
    used = {names[number] for found in rows.values() for number, _ in found}
    numbers = class_numbers(used, known, source)
    labels = {number: numbers[name] for number, name in enumerate(names) if name in used}
    read = [_image(path, rows.get(path, []), labels, folder) for path in images]
    missing = len(images) - len(texts)
    notes = [f"{missing} of {len(images)} images have no text file and count as images without parts: {folder}"]
    return AnnotatedSet(known, read, notes * (missing > 0))


def read_names(path: Path) -> list[str]:
    """Return the names of the classes in a data.yaml, classes.txt or obj.names, by number.

    Raises:
        DatasetError: it has none, or their numbers have gaps.
    """
    text = read_text(path, DatasetError, PARAMETER_BYTES)
    if path.suffix not in {".yaml", ".yml"}:
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        content = parse_yaml(text, DatasetError, str(path))
        names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DatasetError(f"found the class numbers {list(names)[:8]}, need 0 to {len(names) - 1}: {path}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"found no names of classes, need a list: {path}")
    return [str(name) for name in names]


def _text_of(image: Path) -> Path | None:
    folders = list(image.parent.parts)
    places = [image.parent]
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        places.insert(0, Path(*folders[:last], "labels", *folders[last + 1 :]))
    return next((path for place in places if (path := place / f"{image.stem}.txt").is_file()), None)


def _read_rows(path: Path, n_classes: int) -> list[tuple[int, Corners]]:
    """Return class number and box, as shares of the image, of each line."""
    text = read_text(path, DatasetError, _LABEL_BYTES)
    lines = ((number, line.split()) for number, line in enumerate(text.splitlines(), 1))
    return [_row(words, f"line {number} of {path}", n_classes) for number, words in lines if words]


def _row(words: Sequence[str], where: str, n_classes: int) -> tuple[int, Corners]:
    try:
        label, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError as exc:
        raise DatasetError(f"found {' '.join(words)[:60]!r}, need numbers, in {where}") from exc
    if not 0 <= label < n_classes:
        raise DatasetError(f"found class {label}, need 0 to {n_classes - 1}, in {where}")
    is_box, is_polygon = len(values) in (4, 5), len(values) >= 6 and len(values) % 2 == 0  # a fifth is a confidence
    if not (is_box or is_polygon):
        raise DatasetError(f"found {len(words)} numbers, need a class and 4, or the pairs of a polygon, in {where}")
    if not all(math.isfinite(value) and -_SLACK <= value <= 1 + _SLACK for value in values[: 4 if is_box else None]):
        raise DatasetError(f"found {' '.join(words)[:60]!r}, need shares of the image, 0 to 1, in {where}")
    if is_polygon:
        return label, bounds(values)
    x, y, width, height = values[:4]
    return label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _image(path: Path, rows: Sequence[tuple[int, Corners]], labels: dict[int, int], folder: Path) -> AnnotatedImage:
    width, height = stored_size(path)
    annotations = []
    for number, (left, top, right, bottom) in rows:
        box = clipped((left * width, top * height, right * width, bottom * height), width, height)
        if box is not None:
            annotations.append(Annotation(labels[number], box, (box[2] - box[0]) * (box[3] - box[1])))
    return AnnotatedImage(path, width, height, tuple(annotations), subset_of(path.relative_to(folder)))
