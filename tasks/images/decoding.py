"""Decodes the bytes of an image into pixels, in training and where a model is served.

A copy of this file is kept with every model in MLflow and used there, so it imports nothing of this project.
"""

import base64
import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000

# Everything else Pillow can open stays shut: EPS, for one, would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
# Type and checksum of the empty block that ends every PNG; Pillow can do without it and some of the pixels'
# checksum.
_PNG_END = b"IEND\xaeB\x60\x82"
# What Pillow's decoders raise on damaged input; SyntaxError is how its PNG reader reports a wrong checksum.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


class UndecodableError(Exception):
    """The bytes are no image that can be used; the message says why."""


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, min_side: int | None = None, *, upright: bool = True
) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8 RGB, turned the way its EXIF orientation says.

    Grey is repeated, 16 bit keeps the upper 8, CMYK is converted, and a transparent pixel is blended with
    black: what nobody can see carries no signal. Of several frames the first is taken.

    Args:
        data: the content of a file.
        max_pixels: more than this in the header is refused before anything is decoded. Pillow itself refuses
            above 178,956,970.
        min_side: allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as long as its shorter side
            stays at least twice this, so that the shrinking that follows still averages over pixels.
        upright: False leaves the pixels as they are stored, which is what a known camera means.

    Raises:
        UndecodableError: it is damaged, truncated, too large or no image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UndecodableError(f"{width}x{height} pixels, need at most {max_pixels} in all")
            if image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"}:
                # OpenCV fills what is missing of a truncated JPEG with grey, in some releases without a word.
                # A whole file ends with its end marker; one with bytes behind it is left to Pillow, which is
                # slower and strict.
                if not data.endswith(b"\xff\xd9"):
                    image.load()
                return _decode_jpeg(data, min(width, height), min_side, upright)
            if image.format == "PNG" and _PNG_END not in data:
                raise UndecodableError(f"truncated PNG, ends without its last block ({len(data)} bytes)")
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise UndecodableError(f"more pixels than can be decoded safely ({exc})") from exc
    except UnidentifiedImageError as exc:
        raise UndecodableError(f"not an image, or its header is damaged ({len(data)} bytes)") from exc
    except _DAMAGE as exc:
        raise UndecodableError(f"damaged or truncated image ({exc})") from exc


def decoded_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of what `decode` makes of the content of a file, from its header.

    Raises:
        UndecodableError: it is no image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by a quarter, one way or the other
            return (height, width) if turned else (width, height)
    except UnidentifiedImageError as exc:
        raise UndecodableError(f"not an image, or its header is damaged ({len(data)} bytes)") from exc
    except _DAMAGE as exc:
        raise UndecodableError(f"damaged or truncated image ({exc})") from exc


def _decode_jpeg(data: bytes, side: int, min_side: int | None, upright: bool) -> NDArray[np.uint8]:
    """Decode with OpenCV, which takes half of Pillow's time and turns the image by its EXIF orientation."""
    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    if min_side is not None:
        flags |= next((flag for scale, flag in _REDUCED if side // scale >= 2 * min_side), 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as exc:
        raise UndecodableError(f"OpenCV cannot decode this JPEG ({exc.err})") from exc
    if image is None:
        raise UndecodableError(f"damaged or truncated JPEG ({len(data)} bytes)")
    return image.astype(np.uint8, copy=False)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Bring any image Pillow can open to 8-bit RGB; Pillow reads 16-bit RGB as 8 bit by itself."""
    if image.mode.startswith("I"):  # 16-bit grey, "I" when it comes from PGM
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise UndecodableError(f"grey values {grey.min()} to {grey.max()}, need 8 or 16 bit without sign")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise UndecodableError("pixels are floating point, need 8 or 16 bit integers")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def resize_rgb(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Squash (H, W, 3) to (size, size, 3), sides not kept in proportion.

    Source: RFUAV's transforms, `Resize((size, size))`. Shrinking averages over areas, enlarging is linear.
    """
    height, width = image.shape[:2]
    resized: cv2.typing.MatLike = image
    if height > size or width > size:
        resized = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    if resized.shape[:2] != (size, size):
        resized = cv2.resize(resized, (size, size), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def made_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) in the middle of a square, whose other pixels are those of the image's rim gone on."""
    height, width = image.shape[:2]
    above, left = max(0, width - height) // 2, max(0, height - width) // 2
    below, right = max(0, width - height) - above, max(0, height - width) - left
    if height == width:
        return image
    return np.pad(image, ((above, below), (left, right), (0, 0)), mode="edge")


def decode_sized(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return an image as a model sees it, (size, size, 3) uint8 RGB.

    Raises:
        UndecodableError: as `decode`.
    """
    return resize_rgb(decode(data, max_pixels, min_side=size), size)


def decode_cell(cell: Any, row: int, size: int | None = None) -> NDArray[np.uint8]:
    """Return the image in a cell of the table that a served model gets, (H, W, 3) uint8 RGB.

    Args:
        cell: the content of a file, as bytes or, over REST, as base64.
        row: of the table, for the message.
        size: as `decode_sized`; None: as it is.

    Raises:
        ValueError: it holds no image.
    """
    try:
        data = base64.b64decode(cell) if isinstance(cell, str) else bytes(cell)
        return decode(data) if size is None else decode_sized(data, size)
    except (UndecodableError, ValueError, TypeError) as exc:
        raise ValueError(
            f"found no image in row {row}, need the bytes of an image file in column 'image' ({exc})"
        ) from exc
