"""Brings the images of a request to what every model is shown: upright, 8-bit RGB, of bounded size, as PNG."""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import cv2

from tasks.base import outside
from tasks.base.errors import ImageError
from tasks.images.decoding import UndecodableError, decode
from tasks.images.params import PrepareParams
from tasks.images.prepare import bounded
from tasks.vision_language.gate.fetch import Hosts, fetch
from tasks.vision_language.gate.refusal import Refusal, bad

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?:;[^;,]*)*?(?P<base64>;base64)?,", re.I)
_MOST_TIMES_AS_LONG = 200  # Qwen's processors, and those made after them, take no more: an engine answers 500 then
_FASTEST = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # it goes to a program of this machine


def prepared(data: bytes, params: PrepareParams, name: str, max_bytes: int) -> str:
    """Return an image as a data URL of a PNG.

    Args:
        data: the content of a file.
        params: the bounds.
        name: of the image, for the message.
        max_bytes: of the file.

    Raises:
        Refusal: 400, far longer than wide; 413, too large; 415, it is damaged or no image.
    """
    if len(data) > max_bytes:
        raise Refusal(413, f"{name}: found {len(data)} bytes, need at most {max_bytes}", "image_too_large")
    try:
        # Half of a JPEG's size is enough where it is shrunk to less than that.
        rgb = bounded(decode(data, min_side=params.max_side), params)
    except UndecodableError as exc:
        raise Refusal(415, f"{name}: {exc}", "invalid_image") from exc
    height, width = rgb.shape[:2]
    if max(height, width) > _MOST_TIMES_AS_LONG * min(height, width):
        need = f"need one side at most {_MOST_TIMES_AS_LONG} times as long as the other"
        raise bad(f"{name}: found {width}x{height} pixels as the model is shown them, {need}", "invalid_image")
    _, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), _FASTEST)
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the images of a request may be beside the request itself.

    Args:
        folder: file: URLs may name what is below it; None: nothing.
        hosts: http: and https: URLs may be of these.
        deadline: until when they are fetched, of `time.monotonic`.
    """

    folder: Path | None
    hosts: Hosts
    deadline: float


def content_of(url: str, name: str, sources: Sources, max_bytes: int) -> bytes:
    """Return the content of what an image's URL means: what it holds itself, a file, or what another host has.

    Args:
        url: from the request.
        name: of the image, for the message.
        sources: what it may mean.
        max_bytes: of a file.

    Raises:
        Refusal: 400, the URL is none of these, or is damaged; 413, a host sends more.
    """
    scheme = url[:10].partition(":")[0].lower()
    if scheme == "data":
        return _inside(url, name)
    if scheme == "file" and sources.folder is not None:
        return _of_file(url, name, sources.folder, max_bytes)
    if scheme in {"http", "https"} and sources.hosts.places:
        return fetch(url, name, sources.hosts, max_bytes, sources.deadline)
    found = repr(url.partition(":")[0] + ":") if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url) else "a path"
    raise bad(f"{name}: found {found}, need the image itself, as a data: URL", "image_url_refused")


def _inside(url: str, name: str) -> bytes:
    head = _DATA_URL.match(url[:1000])
    if head is None:
        raise bad(f"{name}: found a damaged data: URL, need data:image/...;base64,...", "invalid_image_url")
    text = url[head.end() :]
    if not head["base64"]:
        return unquote_to_bytes(text)
    try:
        return base64.b64decode(unquote(text) if "%" in text else text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise bad(f"{name}: found a data: URL that is not base64 ({exc})", "invalid_image_url") from exc


def _of_file(url: str, name: str, folder: Path, max_bytes: int) -> bytes:
    try:
        parts = urlsplit(url)
        path = Path(unquote(parts.path)).resolve()
    except (ValueError, OSError, RuntimeError) as exc:
        raise bad(f"{name}: found a damaged file: URL ({exc})", "invalid_image_url") from exc
    if parts.netloc not in {"", "localhost"} or not path.is_relative_to(folder.resolve()):
        raise bad(f"{name}: found a file: URL of another place, need one below the server's folder of images")
    try:
        return outside.read_bytes(path, ImageError, max_bytes)
    except ImageError as exc:
        raise bad(f"{name}: {exc}", "image_unreadable") from exc
