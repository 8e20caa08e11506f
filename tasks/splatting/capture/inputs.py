"""Recognises what a scene is given as, and takes over cameras that are known already."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.outside import CLOUD_BYTES, check_file
from tasks.base.progress import Note
from tasks.images.images import IMAGE_SUFFIXES
from tasks.splatting.capture.frame_table import IMAGES, MASKS
from tasks.splatting.capture.named_images import smaller_copies
from tasks.splatting.capture.photos import INPUT, photographs, photographs_given
from tasks.splatting.capture.transforms import TRANSFORMS, known_of
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.colmap_job import ColmapJob
from tasks.splatting.poses.find import PoseEvent, adopt_poses

Kind = Literal["video", "photos", "colmap", "transforms"]

_MODEL_PLACES = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "dense/sparse", "colmap_text", ".")
_IMAGE_PLACES = (IMAGES, INPUT, "dense/images")
_BLENDER = "transforms_train.json"  # of synthetic scenes, beside others for validation and test
_MODEL_SUFFIXES = (".bin", ".txt")
_ABOVE = 3  # folders: sparse/0 of colmap


def recognise(path: Path) -> Kind:
    """Return what `path` is: a video, a folder of photographs, or images whose cameras are known.

    Raises:
        ConfigError: there is nothing there, or one photograph alone.
        DatasetError: the folder holds nothing that can be used.
    """
    if path.exists() and not path.is_dir():
        check_file(path, ConfigError)
        if path.suffix.lower() == ".json":
            return "transforms"
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ConfigError(f"{path} is one photograph, need a video or a folder of photographs")
        return "video"
    if not path.is_dir():
        raise ConfigError(f"there is no {path}, need a video or a folder of photographs")
    if _transforms(path):
        return "transforms"
    if _model(path) is not None:
        return "colmap"
    if photographs_given(path):
        return "photos"
    held = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "")
    raise DatasetError(
        f"nothing to make a scene from in {path}, which holds {shown or 'nothing'}; need photographs, {TRANSFORMS}, or "
        "sparse/0 and images; of a video give the file itself"
    )


def adopt(source: Path, folder: Path, max_side: int, params: PosesParams) -> Iterator[PoseEvent]:
    """Yield how far it is, at last a PoseReport, for what `recognise` calls colmap or transforms.

    Args:
        source: as given.
        folder: the result is kept here, at `find_poses`' place.
        max_side: images are shrunk to this, pixels.
        params: how to look for features where points lack, and how many images have to be there.

    Raises:
        DatasetError: the cameras or images cannot be used.
    """
    if recognise(source) == "transforms":
        *notes, job = known_of(_transforms(source) or source, folder, params)
        yield from (note for note in notes if isinstance(note, Note))
        assert isinstance(job, ColmapJob)
    else:
        model = _model(source)
        assert model is not None
        for path in sorted(model.iterdir()):
            if path.suffix in _MODEL_SUFFIXES:  # COLMAP opens them itself
                check_file(path, DatasetError, CLOUD_BYTES)
        places = [place.resolve() for place in _places(source)]
        # Beside a folder of images, but in the folder that was given: what is beside that is another's.
        masks = [(place if place == source.resolve() else place.parent) / MASKS for place in places]
        job = ColmapJob(
            stages=(),
            folder=str(folder.resolve()),
            model=str(model.resolve()),
            places=tuple(map(str, places)),
            masks=tuple(map(str, masks)),
        )
    yield from adopt_poses(job, params, max_side)


def _transforms(path: Path) -> Path | None:
    return next((path / name for name in (TRANSFORMS, _BLENDER) if (path / name).exists()), None)


def _model(path: Path) -> Path | None:
    """Return the folder of a COLMAP model in one of its usual places; of several in `sparse` the first by number."""
    sparse = path / "sparse"
    numbered = [folder for folder in sparse.glob("*") if folder.name.isdecimal()] if sparse.is_dir() else []
    numbered.sort(key=lambda folder: int(folder.name))
    places = [*(path / place for place in _MODEL_PLACES[:2]), *numbered, *(path / place for place in _MODEL_PLACES[2:])]
    return next((place for place in places if _is_model(place)), None)


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras{suffix}").exists() for suffix in _MODEL_SUFFIXES)


def _places(path: Path) -> list[Path]:
    """Return the folders that may hold a model's images: beside it, or above when the model's own was given."""
    found = []
    above = path.resolve().parents[:_ABOVE] if _is_model(path) else ()
    for up in (path, *above):
        found += [up / place for place in _IMAGE_PLACES if (up / place).is_dir()] + smaller_copies(up)
    if photographs(path):
        found.append(path)
    if not found:
        raise DatasetError(f"there is a COLMAP model in {path}, but no folder {IMAGES} with its images beside it")
    return found
