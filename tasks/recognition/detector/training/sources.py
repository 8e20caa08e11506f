"""Finds the scenes that a detector is trained and graded on: rendered ones, and annotated photographs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.outside import read_json
from tasks.base.workspace import allowed_path
from tasks.images.images import content_digest, read_bytes
from tasks.recognition.coco.annotations import AnnotatedImage, AnnotatedSet, Subset
from tasks.recognition.coco.read_coco import read_coco
from tasks.recognition.coco.real_images import read_annotated
from tasks.recognition.params import DetectorParams

_GRADED_SHARE = 0.3  # of photographs that nobody divided, what is graded and not trained on


def read_parts(dataset: Path) -> list[str]:
    """Return the names of the parts of a rendered data set; the position of a name is its class number.

    Raises:
        DatasetError: there are none.
    """
    path = dataset / "parts.json"
    content = read_json(path, DatasetError)
    rows = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise DatasetError(f"found no parts, need a list of at least one with a name: {path}")
    return [str(row["name"]) for row in rows]


def rendered(dataset: Path, subset: Subset, classes: Sequence[str]) -> list[AnnotatedImage]:
    """Return the rendered scenes of a subset.

    Raises:
        DatasetError: there are none, or they cannot be used.
    """
    path = dataset / "scenes" / subset / "annotations.json"
    images = read_coco(path, classes, subset=subset).images
    if not images:
        raise DatasetError(f"found no scene, need at least one: {path}")
    return images


def real(params: DetectorParams, classes: Sequence[str]) -> AnnotatedSet | None:
    """Return the photographs that the parameters name, each with its subset; None: they name none.

    Those that are only graded are all of `test`. Of those that are trained on too, the ones that nobody divided are
    divided by their content, so that the same file is on the same side in every run.

    Raises:
        DatasetError: they cannot be used.
        ConfigError: the folder lies outside the allowed roots.
    """
    if params.real_images is None:
        return None
    found = read_annotated(allowed_path(params.real_images), classes)
    if params.real_use == "evaluate":
        return replace(found, images=[replace(image, subset="test") for image in found.images])
    return replace(found, images=[_divided(image) for image in found.images])


def _divided(image: AnnotatedImage) -> AnnotatedImage:
    if image.subset is not None:
        return image
    share = int(content_digest(read_bytes(image.path))[:8], 16) / 2**32
    return replace(image, subset="test" if share < _GRADED_SHARE else "train")
