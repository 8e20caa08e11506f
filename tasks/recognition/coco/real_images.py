"""Reads a folder of annotated images in whichever layout its tool left it."""

from collections.abc import Sequence
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.outside import read_json, walk
from tasks.recognition.coco.annotations import AnnotatedSet
from tasks.recognition.coco.files import ImageFiles
from tasks.recognition.coco.read_coco import is_coco, read_coco
from tasks.recognition.coco.read_yolo import NAME_FILES, find_names, read_yolo
from tasks.recognition.coco.subsets import subset_of


def read_annotated(folder: Path, classes: Sequence[str]) -> AnnotatedSet:
    """Return the images of a folder with COCO JSON files or YOLO's text files; labels are the numbers of the parts.

    Args:
        folder: an export of Roboflow, CVAT, Label Studio or ultralytics, the data set of a rendering, or one made by
            hand.
        classes: names of the parts.

    Raises:
        DatasetError: there is nothing of that kind, or what there is cannot be used; see the two readers.
    """
    if not folder.is_dir():
        raise DatasetError(f"found no folder, need one of images with COCO JSON or YOLO text files: {folder}")
    jsons = find_coco(folder)
    if not jsons:
        if find_names(folder) is None:
            need = f"a COCO JSON, or text files with one of {', '.join(NAME_FILES)}"
            raise DatasetError(f"found no annotations, need {need}: {folder}")
        return read_yolo(folder, classes)
    files = ImageFiles(folder)
    read = [read_coco(path, classes, files=files, subset=subset_of(path.relative_to(folder))) for path in jsons]
    images = [image for each in read for image in each.images]
    _refuse_twice([image.path for image in images], folder)
    return AnnotatedSet(list(classes), images, [note for each in read for note in each.notes])


def find_coco(folder: Path) -> list[Path]:
    """Return the COCO JSON files below a folder, sorted.

    Raises:
        DatasetError: a JSON file is damaged.
    """
    paths = sorted(Path(root, name) for root, _, names in walk(folder) for name in names if name.endswith(".json"))
    return [path for path in paths if is_coco(read_json(path, DatasetError))]


def _refuse_twice(paths: Sequence[Path], folder: Path) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            raise DatasetError(f"found the image {path.name} in two annotation files, need one of them: {folder}")
        seen.add(path)
