"""Reads any image as 8-bit RGB, or raises an error with the file's name."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.base import outside
from tasks.base.errors import ImageError
from tasks.base.outside import MIB
from tasks.images.decoding import MAX_PIXELS, UndecodableError, decode, decoded_size, resize_rgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})


LARGEST_BYTES = 8 * MAX_PIXELS + MIB
"""Of an image's file: 16-bit RGBA takes 8 bytes a pixel, the MiB is room for headers and profiles."""


def read_rgb(
    path: Path, max_pixels: int = MAX_PIXELS, min_side: int | None = None, *, upright: bool = True
) -> NDArray[np.uint8]:
    """Return the image as (H, W, 3) uint8 RGB, as `decoding.decode` does.

    Args:
        path: a regular file, or a symbolic link to one.
        max_pixels, min_side, upright: as there.

    Raises:
        ImageError: the file cannot be read, is empty, truncated, too large or no image.
    """
    return decode_rgb(read_bytes(path, max_pixels), path, max_pixels, min_side, upright=upright)


def content_digest(data: bytes) -> str:
    """Return the digest of a file's content, blake2b-16, as in files.csv."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_bytes(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of an image's file.

    Raises:
        ImageError: it cannot be read, is empty, or is larger than `max_pixels` could ever need.
    """
    data = outside.read_bytes(path, ImageError, 8 * max_pixels + MIB)
    if not data:
        raise ImageError(f"empty file, 0 bytes: {path}")
    return data


def decode_rgb(
    data: bytes, path: Path, max_pixels: int = MAX_PIXELS, min_side: int | None = None, *, upright: bool = True
) -> NDArray[np.uint8]:
    """Return what `read_rgb` returns, from the bytes of the file; `path` is for the messages."""
    try:
        return decode(data, max_pixels, min_side, upright=upright)
    except UndecodableError as exc:
        raise ImageError(f"{exc}: {path}") from exc


def shrunk(data: bytes, path: Path, size: int) -> NDArray[np.uint8]:
    """Return an image as a model sees it, (size, size, 3) uint8 RGB, from the bytes of its file; `path` as above.

    Raises:
        ImageError: it cannot be used.
    """
    return resize_rgb(decode_rgb(data, path, min_side=size), size)


def upright_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels of the image in a file, as `read_rgb` turns it; nothing is decoded.

    Raises:
        ImageError: the file cannot be read, or is no image.
    """
    try:
        return decoded_size(read_bytes(path))
    except UndecodableError as exc:
        raise ImageError(f"{exc}: {path}") from exc


def encode_jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Return (H, W, 3) RGB as the bytes of a JPEG file."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"found an array {rgb.shape} {rgb.dtype}, need (H, W, 3) uint8 of at most 65500 a side")
    return data.tobytes()


def write_jpeg(path: Path, rgb: NDArray[np.uint8], quality: int) -> None:
    """Write (H, W, 3) RGB as a JPEG file, not atomically: callers write into a staged folder."""
    path.write_bytes(encode_jpeg(rgb, quality))
