"""Reads images whose cameras are known, and shrinks images before they are written."""

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tasks.base.errors import ImageError
from tasks.base.outside import open_file
from tasks.base.workspace import write_atomic
from tasks.images.images import LARGEST_BYTES, read_rgb

JPEG_QUALITY = 95

_APP1, _ADOBE, _START_OF_SCAN = 0xE1, 0xEE, b"\xda"  # the second bytes of JPEG's markers
_WORDS = frozenset({0xEF, 0xFE})  # the last of the applications', and comments
_SEGMENTS = frozenset({*range(0xC0, 0xD0), *range(0xDB, 0xF0), 0xFE})  # markers a length follows, but for the scan's
_BETWEEN = re.compile(b"\xff[\xe0-\xef\xfe]")  # the applications' and comments: also scans may have some before them
_END = b"\xff\xd9"


def read_stored(path: Path) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) RGB as its pixels are stored: a camera was found for those, whatever EXIF says.

    Raises:
        ImageError: it cannot be read.
    """
    return read_rgb(path, upright=False)


def stored_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image as its pixels are stored.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with open_file(path, ImageError, LARGEST_BYTES) as file, Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError) as exc:
        raise ImageError(f"cannot be read as an image: {path}") from exc


def bounded(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Return (width, height) of an image shrunk, never enlarged, so that its longest side is at most `max_side`."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrunk(rgb: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) with its longest side at most `max_side`, as an array of its own."""
    height, width = rgb.shape[:2]
    size = bounded(width, height, max_side)
    if size == (width, height):
        return rgb.copy()
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Return an image (H, W, 3) as a JPEG file that keeps its colours at full size, not at half."""
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full]
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def drop_exif(path: Path) -> None:
    """Take the EXIF block out of a JPEG file; its pixels stay as they are, bit for bit, unless its form is damaged."""
    data = path.read_bytes()
    parts = _segments(data)
    if parts is None:
        write_atomic(path, jpeg(read_stored(path)))
        return
    head, rest = parts
    kept = [segment for segment in head if segment[1] != _APP1 or segment[4:10] != b"Exif\0\0"]
    if len(kept) < len(head):
        write_atomic(path, b"".join([data[:2], *kept, rest]))


def anonymous(data: bytes, exif: bytes) -> bytes | None:
    """Return a JPEG file with its pixels, bit for bit, and no word about them but an EXIF block of ours.

    Args:
        data: of the file.
        exif: the block, as Pillow's `Exif.tobytes`; empty: none.

    Returns:
        The file's bytes; None where its form is damaged or something stands within or behind the image, which would
        go with it.
    """
    parts = _segments(data)
    if parts is None:
        return None
    head, rest = parts
    if rest.find(_END) != len(rest) - len(_END) or _BETWEEN.search(rest):
        return None
    kept = [segment for segment in head if not (_APP1 <= segment[1] < _ADOBE or segment[1] in _WORDS)]
    block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif if exif else b""
    return b"".join([data[:2], block, *kept, rest])


def _segments(data: bytes) -> tuple[list[bytes], bytes] | None:
    """Return the segments of a JPEG file before its pixels, and the rest; None where they do not lead to pixels.

    Source: JPEG (ITU-T T.81) annexes B.1.1.2 (any number of FF may stand before a marker) and B.1.1.3, Exif 2.3
    section 4.7.2.
    """
    found, at = list[bytes](), 2
    while data[at : at + 1] == b"\xff":
        while data[at + 1 : at + 2] == b"\xff":
            at += 1
        if data[at + 1 : at + 2] == _START_OF_SCAN:
            return found, data[at:]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if end > len(data) or length < 2 or data[at + 1] not in _SEGMENTS:
            return None
        found.append(data[at:end])
        at = end
    return None
