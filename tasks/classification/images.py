"""Reads and writes pictures: whatever comes in leaves as 8-bit RGB, or as an error that names the file."""

import io
import stat
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.errors import ImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
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


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> NDArray[np.uint8]:
    """Return the picture as (H, W, 3) uint8 RGB, turned the way its EXIF orientation says.

    Grey is repeated, 16 bit keeps the upper 8, CMYK is converted, and a transparent pixel is blended with
    black: what nobody can see carries no signal. Of several frames the first is taken.

    Args:
        path: a regular file, or a symbolic link to one.
        max_pixels: more than this in the file's header is refused before anything is decoded. Pillow itself
            refuses above 178,956,970.
        min_side: allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as long as its shorter side
            stays at least twice this, so that the shrinking that follows still averages over pixels.

    Raises:
        ImageError: the file cannot be read, is empty, truncated, too large or no picture.
    """
    return decode_rgb(read_bytes(path, max_pixels), path, max_pixels, min_side)


def read_bytes(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of a picture's file.

    Raises:
        ImageError: it cannot be read, is empty, or is larger than `max_pixels` could ever need.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"not a regular file: {path}")
        # 16-bit RGBA takes 8 bytes a pixel; the MiB is room for headers and profiles.
        limit = 8 * max_pixels + 2**20
        if status.st_size > limit:
            raise ImageError(f"{status.st_size} bytes, more than {limit}, all that {max_pixels} pixels need: {path}")
        data = path.read_bytes()
    except OSError as exc:
        raise ImageError(f"cannot be read, {exc.strerror}: {path}") from exc
    if not data:
        raise ImageError(f"empty file, 0 bytes: {path}")
    return data


def decode_rgb(data: bytes, path: Path, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> NDArray[np.uint8]:
    """Return what `read_rgb` returns, from the bytes of the file; `path` is for the messages."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"{width}x{height} pixels, need at most {max_pixels} in all: {path}")
            if image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"}:
                # OpenCV fills what is missing of a truncated JPEG with grey, in some releases without a word.
                # A whole file ends with its end marker; one with bytes behind it is left to Pillow, which is
                # slower and strict.
                if not data.endswith(b"\xff\xd9"):
                    image.load()
                return _decode_jpeg(data, path, min(width, height), min_side)
            if image.format == "PNG" and _PNG_END not in data:
                raise ImageError(f"truncated PNG, ends without its last block ({len(data)} bytes): {path}")
            return _to_rgb(image, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError(f"more pixels than can be decoded safely ({exc}): {path}") from exc
    except UnidentifiedImageError as exc:
        raise ImageError(f"not a picture, or its header is damaged ({len(data)} bytes): {path}") from exc
    except _DAMAGE as exc:
        raise ImageError(f"damaged or truncated picture ({exc}): {path}") from exc


def _decode_jpeg(data: bytes, path: Path, side: int, min_side: int | None) -> NDArray[np.uint8]:
    """Decode with OpenCV, which takes half of Pillow's time and turns the picture by its EXIF orientation."""
    flags = cv2.IMREAD_COLOR_RGB
    if min_side is not None:
        flags |= next((flag for scale, flag in _REDUCED if side // scale >= 2 * min_side), 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as exc:
        raise ImageError(f"OpenCV cannot decode this JPEG ({exc.err}): {path}") from exc
    if image is None:
        raise ImageError(f"damaged or truncated JPEG ({len(data)} bytes): {path}")
    return image.astype(np.uint8, copy=False)


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Bring any picture Pillow can open to 8-bit RGB; Pillow reads 16-bit RGB as 8 bit by itself."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16-bit grey, "I" when it comes from PGM
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"grey values {grey.min()} to {grey.max()}, need 8 or 16 bit without sign: {path}")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(f"pixels are floating point, need 8 or 16 bit integers: {path}")
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


def encode_jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Return (H, W, 3) RGB as the bytes of a JPEG file."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"found an array {rgb.shape} {rgb.dtype}, need (H, W, 3) uint8 of at most 65500 a side")
    return data.tobytes()


def write_jpeg(path: Path, rgb: NDArray[np.uint8], quality: int) -> None:
    """Write (H, W, 3) RGB as a JPEG file, not atomically: callers write into a staged folder."""
    path.write_bytes(encode_jpeg(rgb, quality))
