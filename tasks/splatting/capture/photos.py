"""Copies the photographs of a folder, upright and bounded in size, and reads their focal lengths."""

import re
from collections.abc import Generator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.base.errors import DatasetError, ImageError
from tasks.base.outside import open_file
from tasks.base.progress import Note, Progress
from tasks.base.workspace import allowed_link
from tasks.images.images import IMAGE_SUFFIXES, LARGEST_BYTES, read_bytes, read_rgb
from tasks.splatting.capture.frame_table import IMAGES, FrameRow, FramesReport, check_enough
from tasks.splatting.capture.pixels import JPEG_QUALITY, anonymous, shrunk
from tasks.splatting.capture.sharpness import look
from tasks.splatting.params import FramesParams
from tasks.tracking.mlflow_names import stem_as_name

INPUT = "input"
"""What other trainers of splats call the folder of photographs before COLMAP has seen them."""

UNREADABLE_SHARE = 0.1
"""Up to this share of photographs may be unreadable; more, and something is wrong with the folder."""

_EXIF_IFD, _FOCAL_35MM = 0x8769, 0xA405  # Exif 2.3, tags "Exif IFD" and "FocalLengthIn35mmFilm"
_ORIENTATION = 0x0112
_UNREAD_SUFFIXES = frozenset({".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".avif", ".gif"})


def photographs(folder: Path) -> list[Path]:
    """Return the images that lie in a folder, numbers in their names in order of value.

    Raises:
        ConfigError: one is a link that leads outside the allowed roots.
    """
    found = [
        allowed_link(path)
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda path: ([_part(part) for part in re.split(r"(\d+)", path.name)], path.name))


def photographs_given(source: Path) -> list[Path]:
    """Return the photographs of a folder that a person gave: its own, else those in `images` or `input` below it.

    Raises:
        ConfigError: one is a link that leads outside the allowed roots.
    """
    for folder in (source, source / IMAGES, source / INPUT):
        if folder.is_dir() and (found := photographs(allowed_link(folder))):
            return found
    return []


def _part(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdecimal() else (1, 0, text.lower())


def extract_photos(source: Path, target: Path, params: FramesParams) -> Generator[Progress | Note, None, FramesReport]:
    """Write the photographs of `source` to `target`/images; what is yielded is progress and what to know.

    Raises:
        DatasetError: there are none, more than a tenth cannot be read, or fewer than three can be used.
    """
    found = _found(source)
    taken = found
    if len(found) > params.n_frames:
        taken = [found[int((index + 0.5) * len(found) / params.n_frames)] for index in range(params.n_frames)]
        yield Note(f"{len(taken)} of {len(found)} photographs are taken, evenly chosen by name (n_frames)")
    rows: list[FrameRow] = []
    broken: list[str] = []
    for index, path in enumerate(taken):
        try:
            rgb = read_rgb(path)
        except ImageError as exc:
            broken.append(str(exc))
            _check_broken(broken, len(taken), source)
            yield Note(f"left out: {exc}")
            continue
        rows.append(_take(index, path, rgb, target / IMAGES, params.max_side))
        yield Progress("frames", index + 1, len(taken))
    chosen = tuple(row.name for row in rows if row.chosen)
    check_enough(rows, len(chosen), source)
    yield from (Note(f"left out, {row.reason}: {row.name}") for row in rows if not row.chosen)
    return FramesReport(target / IMAGES, chosen, tuple(rows))


def _found(source: Path) -> list[Path]:
    found = photographs_given(source)
    if found:
        return found
    other = sorted({path.suffix.lower() for path in source.iterdir() if path.is_file()})
    unread = [suffix for suffix in other if suffix in _UNREAD_SUFFIXES]
    hint = f"; it holds {', '.join(unread)}: convert them to JPEG" if unread else ""
    raise DatasetError(f"no photograph in {source}, need {', '.join(sorted(IMAGE_SUFFIXES))}{hint}")


def _check_broken(broken: Sequence[str], total: int, source: Path) -> None:
    if len(broken) > UNREADABLE_SHARE * total:
        raise DatasetError(
            f"{len(broken)} of {total} photographs in {source} cannot be read, at most {UNREADABLE_SHARE:.0%} may: "
            f"{'; '.join(broken[:3])}"
        )


def _take(index: int, path: Path, rgb: NDArray[np.uint8], images: Path, max_side: int) -> FrameRow:
    seen = look(rgb)
    if seen.flaw:
        return FrameRow(index, None, seen.sharpness, False, seen.flaw, path.name)
    # Numbered: COLMAP takes the neighbours of an image by the order of names as text, where 10 comes before 2.
    name = f"{index + 1:05}_{stem_as_name(path.name)}.jpg"
    exif = Image.Exif()
    focal = focal_35mm(path)
    if focal:
        exif.get_ifd(_EXIF_IFD)[_FOCAL_35MM] = focal  # alone: where and by whom it was taken is nobody's business
    data = _unchanged(path, max_side, exif.tobytes() if focal else b"")
    if data is None:
        image = BytesIO()  # into a file of the disk Pillow writes by itself, and loses the reason where it cannot
        Image.fromarray(shrunk(rgb, max_side)).save(image, "jpeg", quality=JPEG_QUALITY, subsampling=0, exif=exif)
        data = image.getvalue()
    (images / name).write_bytes(data)
    return FrameRow(index, None, seen.sharpness, True, "photograph", name)


def _unchanged(path: Path, max_side: int, exif: bytes) -> bytes | None:
    """Return a JPEG with its pixels as they are; None where they have to be turned, shrunk or are no plain JPEG's."""
    with open_file(path, ImageError, LARGEST_BYTES) as file, Image.open(file) as image:
        plain = image.format == "JPEG" and image.mode in {"RGB", "L"} and max(image.size) <= max_side
        if not plain or image.getexif().get(_ORIENTATION, 1) != 1:
            return None
    return anonymous(read_bytes(path), exif)


def focal_35mm(path: Path) -> int | None:
    """Return the focal length a photograph's EXIF gives for 35 mm film, mm; None: it gives none."""
    with open_file(path, ImageError, LARGEST_BYTES) as file, Image.open(file) as image:
        focal = image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_35MM)
    return int(focal) if isinstance(focal, int | float) and 1 <= focal <= 5000 else None
