"""Reads the multipart form of the service before this one: prompt, images and history, all in memory."""

import json
import re
from collections.abc import Iterator
from email.message import Message
from typing import Any

from tasks.vision_language.gate.order import Order, Rules, read_order
from tasks.vision_language.gate.pictures import prepared
from tasks.vision_language.gate.refusal import Refusal, bad

_MAX_PARTS = 2000
_TEXTS = ("prompt", "history", "max_tokens")


def read_form(data: bytes, content_type: str, rules: Rules, *, stream: bool) -> Order:
    """Return the request in a form: `prompt`, any number of `images`, and `history`, a JSON list of messages.

    Args:
        data: the body.
        content_type: the header.
        rules: what it may hold.
        stream: the client wants the text as it comes.

    Raises:
        Refusal: as `read_order`; 415, it is no form.
    """
    texts: dict[str, str] = {}
    images: list[bytes] = []
    for name, value in parts(data, content_type):
        if name in {"images", "image", "images[]"}:
            images.append(value)
        elif name in _TEXTS:
            texts[name] = _text(name, value)
        else:
            raise bad(f"found the field {name[:100]!r}, need some of {', '.join(_TEXTS)}, images", "unknown_field")
    if not texts.get("prompt"):
        raise bad("prompt: found nothing, need a question")
    if len(images) > rules.max_images:
        raise Refusal(413, f"found {len(images)} images, need at most {rules.max_images}", "too_many_images")
    asked: dict[str, Any] = {
        "messages": [*_history(texts.get("history")), {"role": "user", "content": texts["prompt"]}]
    }
    if "max_tokens" in texts:
        asked["max_tokens"] = _json("max_tokens", texts["max_tokens"])
    body = read_order(json.dumps(asked).encode(), rules).body
    shown = [prepared(image, rules.prepare, f"images[{n}]", rules.max_bytes) for n, image in enumerate(images)]
    body["messages"][-1]["content"][:0] = [{"type": "image_url", "image_url": {"url": url}} for url in shown]
    return Order(body, stream)


def _history(text: str | None) -> list[Any]:
    found = _json("history", text) if text else []
    if not isinstance(found, list):
        raise bad("history: need a JSON list of messages, each with role and content")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise bad(f"{name}: is not JSON ({exc})", "invalid_json") from exc


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise bad(f"{name}: is not UTF-8 ({exc})") from exc


def parts(data: bytes, content_type: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and value of each field of a form; file names mean nothing.

    Source: RFC 7578 and RFC 2046 sec. 5.1.1.

    Raises:
        Refusal: 415, it is no form; 400, it is damaged.
    """
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_type() != "multipart/form-data" or not boundary:
        raise Refusal(415, f"found {content_type[:100]!r}, need multipart/form-data", "invalid_content_type")
    mark = b"\r\n--" + boundary.encode("latin-1", "replace")
    _, *pieces = (b"\r\n" + data).split(mark, _MAX_PARTS + 1)
    if not pieces or len(pieces) > _MAX_PARTS or not pieces[-1].startswith(b"--"):
        raise bad("found a form that is damaged, or ends too early", "invalid_form")
    for piece in pieces[:-1]:
        header, found, value = piece.partition(b"\r\n\r\n")
        name = re.search(rb'^content-disposition:[^\r\n]*[; ]name="?([^"\r\n;]*)"?', header, re.I | re.M)
        if not found or name is None:
            raise bad("found a part of the form without a name", "invalid_form")
        yield name[1].decode("utf-8", "replace"), value
