"""Reads COCO JSON as CVAT, Label Studio, Roboflow and this project write it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.base.errors import DatasetError
from tasks.base.outside import read_json
from tasks.recognition.coco.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    Annotation,
    Corners,
    Subset,
    bounds,
    clipped,
)
from tasks.recognition.coco.files import ImageFiles, stored_size
from tasks.recognition.coco.names import class_numbers

_LISTS = ("images", "annotations", "categories")


def is_coco(content: object) -> bool:
    """Return whether the content of a JSON file is COCO's."""
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in _LISTS)


def read_coco(
    path: Path, classes: Sequence[str] | None = None, *, files: ImageFiles | None = None, subset: Subset | None = None
) -> AnnotatedSet:
    """Return what a COCO JSON file says, images in its order.

    Args:
        path: of the file.
        classes: names of the parts; None: the file's own, in the order of their ids.
        files: where images may lie; None: below the folder of the file.
        subset: given to every image.

    Raises:
        DatasetError: it is no COCO JSON, names an image that is not there, a category that has annotations but is no
            part, or holds boxes that are no numbers.
    """
    content = read_json(path, DatasetError)
    if not is_coco(content):
        raise DatasetError(f"found no COCO JSON, need an object with the lists {', '.join(_LISTS)}: {path}")
    return _Reader(path, content, classes, files or ImageFiles(path.parent)).read(subset)


class _Reader:
    """One file, while it is read."""

    def __init__(self, path: Path, content: Mapping[str, Any], classes: Sequence[str] | None, files: ImageFiles):
        self._path, self._content, self._files = path, content, files
        names = {_number(row, "id", path): str(row.get("name", "")) for row in _rows(content, "categories", path)}
        self._rows = _rows(content, "annotations", path)
        used = {_number(row, "category_id", path) for row in self._rows}
        if strange := sorted(used - set(names)):
            raise DatasetError(f"found annotations of category {strange[0]}, which is not in the file: {path}")
        self.classes = list(classes) if classes is not None else [names[number] for number in sorted(names)]
        # Categories without annotations may be anything: Roboflow's exports begin with one that is no class.
        numbers = class_numbers({names[number] for number in used}, self.classes, path)
        self._labels = {number: numbers[names[number]] for number in used}
        self._n_dropped = 0

    def read(self, subset: Subset | None) -> AnnotatedSet:
        by_image: dict[int, list[Mapping[str, Any]]] = {}
        for row in self._rows:
            by_image.setdefault(_number(row, "image_id", self._path), []).append(row)
        images = [self._image(row, by_image, subset) for row in _rows(self._content, "images", self._path)]
        if by_image:
            raise DatasetError(f"found annotations of image {min(by_image)}, which is not in the file: {self._path}")
        notes = [f"left out {self._n_dropped} box(es) without area on the image: {self._path}"] * (self._n_dropped > 0)
        return AnnotatedSet(self.classes, images, notes)

    def _image(
        self, row: Mapping[str, Any], by_image: dict[int, list[Mapping[str, Any]]], subset: Subset | None
    ) -> AnnotatedImage:
        path = self._files.find(str(row.get("file_name", "")), self._path)
        width, height = row.get("width"), row.get("height")
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            width, height = stored_size(path)
        rows = by_image.pop(_number(row, "id", self._path), [])
        found = [one for one in (self._annotation(each, width, height) for each in rows) if one is not None]
        self._n_dropped += len(rows) - len(found)
        return AnnotatedImage(path, width, height, tuple(found), subset)

    def _annotation(self, row: Mapping[str, Any], width: int, height: int) -> Annotation | None:
        box = clipped(self._corners(row), width, height)
        if box is None:
            return None
        area = row.get("area")
        if not isinstance(area, int | float) or area <= 0:
            area = (box[2] - box[0]) * (box[3] - box[1])
        label = self._labels[_number(row, "category_id", self._path)]
        taken = {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
        extra = {name: value for name, value in row.items() if name not in taken}
        return Annotation(label, box, float(area), bool(row.get("iscrowd")), extra)

    def _corners(self, row: Mapping[str, Any]) -> Corners:
        box = row.get("bbox")
        if isinstance(box, list) and len(box) == 4 and _are_numbers(box):
            left, top, width, height = box
            return left, top, left + width, top + height
        polygons = row.get("segmentation")
        if not box and isinstance(polygons, list) and polygons and all(_are_numbers(each) for each in polygons):
            flat = [value for each in polygons for value in each]
            if len(flat) >= 6:
                return bounds(flat)
        raise DatasetError(f"found the bbox {box!r} in annotation {row.get('id')}, need four numbers: {self._path}")


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and abs(v) < 1e9 for v in values)


def _rows(content: Mapping[str, Any], name: str, path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = content[name]
    if strange := next((row for row in rows if not isinstance(row, dict)), None):
        raise DatasetError(f"found {str(strange)[:40]!r} in {name}, need an object: {path}")
    return rows


def _number(row: Mapping[str, Any], name: str, path: Path) -> int:
    value = row.get(name)
    if not isinstance(value, int):
        raise DatasetError(f"found the {name} {value!r}, need a whole number: {path}")
    return value
