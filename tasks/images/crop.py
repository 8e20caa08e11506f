"""Crops the same box out of one image or of all images of a folder."""

from pathlib import Path

import cv2

from tasks.base.errors import DatasetError, ImageError
from tasks.base.progress import Steps, finish
from tasks.base.workspace import storage_errors
from tasks.images.files import find_images, in_threads
from tasks.images.images import IMAGE_SUFFIXES, read_rgb

Box = tuple[int, int, int, int]  # x, y, width, height

# Of the formats that lose something: JPEG near its best, WebP above 100 loses nothing.
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_WEBP_QUALITY, 101]


def crop_tree(source: Path, target: Path, x: int, y: int, width: int, height: int) -> int:
    """As `cropping`, all at once."""
    return finish(cropping(source, target, (x, y, width, height)))


def cropping(source: Path, target: Path, box: Box) -> Steps[int]:
    """Write the box of every image below the same name in `target`; yield per image, return how many there were.

    What is written is 8-bit RGB in the format of the name (grey for .pgm).

    Args:
        source: an image, or a folder whose structure is kept.
        target: an existing empty folder.
        box: x, y, width, height in pixels; x and y of the upper left corner, from the upper left corner of the
            image as it is seen, that is with its EXIF orientation applied.

    Raises:
        ImageError: the box reaches outside an image, or a file is none.
        DatasetError: there is nothing to crop.
    """
    x, y, width, height = box
    if width < 1 or height < 1:
        raise ValueError(f"found a box of {width}x{height}, need at least 1x1")
    base, paths = _find(source)

    def crop(path: Path) -> None:
        rgb = read_rgb(path)
        n_rows, n_columns = rgb.shape[:2]
        if x < 0 or y < 0 or x + width > n_columns or y + height > n_rows:
            raise ImageError(
                f"box x={x} y={y} width={width} height={height} reaches outside the {n_columns}x{n_rows} image: {path}"
            )
        cut = rgb[y : y + height, x : x + width]
        _write(target / path.relative_to(base), cv2.cvtColor(cut, cv2.COLOR_RGB2BGR))

    with storage_errors(target):
        for number, _ in enumerate(in_threads(crop, paths), 1):
            yield number, len(paths)
    return len(paths)


def _find(source: Path) -> tuple[Path, list[Path]]:
    """Return the images, and the folder from which their names count."""
    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise DatasetError(f"found nothing, need an image or a folder of them: {source}")
    paths, _ = find_images(source)
    if not paths:
        raise DatasetError(f"found no image to crop in {source}")
    return source, paths


def _write(path: Path, bgr: cv2.typing.MatLike) -> None:
    suffix = path.suffix.lower()
    if suffix == ".pgm":
        bgr = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    try:
        done, data = cv2.imencode(suffix, bgr, _QUALITY)
    except cv2.error:  # no format has this suffix
        done = False
    if not done:
        have = " ".join(sorted(IMAGE_SUFFIXES))
        raise ImageError(
            f"cannot write {bgr.shape[1]}x{bgr.shape[0]} pixels as {suffix or 'a file without a suffix'}, need one of "
            f"{have}: {path}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
