"""Tells what a person has given to make a scene from, and takes over cameras that are known already."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tasks.classification.images import IMAGE_SUFFIXES
from tasks.errors import ConfigError, DatasetError
from tasks.splatting.photos import photographs
from tasks.splatting.picked import IMAGES
from tasks.splatting.poses import PoseEvent, adopt_poses
from tasks.splatting.transforms import TRANSFORMS, adopt_transforms

Kind = Literal["video", "photos", "colmap", "transforms"]

_MODEL_PLACES = ("sparse/0", "sparse", ".")
_PICTURE_PLACES = (IMAGES, "../images", "../../images", "input", ".")


def recognise(path: Path) -> Kind:
    """Return what `path` is: a video, a folder of photographs, or pictures whose cameras are known.

    Raises:
        ConfigError: there is nothing there, or one photograph alone.
        DatasetError: the folder holds nothing that can be used.
    """
    if path.is_file():
        if path.suffix.lower() == ".json":
            return "transforms"
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ConfigError(f"{path} is one photograph, need a video or a folder of photographs")
        return "video"
    if not path.is_dir():
        raise ConfigError(f"there is no {path}, need a video or a folder of photographs")
    if (path / TRANSFORMS).is_file():
        return "transforms"
    if _model(path) is not None:
        return "colmap"
    if photographs(path):
        return "photos"
    held = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "")
    raise DatasetError(
        f"nothing to make a scene from in {path}, which holds {shown or 'nothing'}; need photographs, {TRANSFORMS}, or "
        "sparse/0 and images; of a video give the file itself"
    )


def adopt(source: Path, folder: Path, max_side: int) -> Iterator[PoseEvent]:
    """Yield how far it is, at last a PoseReport, for what `recognise` calls colmap or transforms.

    Args:
        source: as given.
        folder: the result is kept here, at `find_poses`' place.
        max_side: pictures are shrunk to this, pixels.

    Raises:
        DatasetError: the cameras or pictures cannot be used.
    """
    if recognise(source) == "transforms":
        yield from adopt_transforms(source / TRANSFORMS if source.is_dir() else source, folder, max_side)
        return
    model = _model(source)
    assert model is not None
    pictures = _pictures(source)
    yield from adopt_poses(model, pictures, folder, max_side)


def _model(path: Path) -> Path | None:
    places = [path / place for place in _MODEL_PLACES]
    return next(
        (place for place in places if any((place / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))), None
    )


def _pictures(path: Path) -> Path:
    """Return the folder of a model's pictures: beside it, or above when the model's own folder was given."""
    for place in _PICTURE_PLACES:
        if (path / place).is_dir() and (place != "." or photographs(path)):
            return path / place
    raise DatasetError(f"there is a COLMAP model in {path}, but no folder {IMAGES} with its pictures beside it")
