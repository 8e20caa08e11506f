"""Reads a chat request in OpenAI's form and brings it to what the engine is sent."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tasks.images.params import PrepareParams
from tasks.vision_language.gate.fetch import FETCH_LIMIT_S, Hosts
from tasks.vision_language.gate.pictures import Sources, content_of, prepared
from tasks.vision_language.gate.refusal import Refusal, bad
from tasks.vision_language.params import Role

_ROLES = get_args(Role)
_NUMBERS = {  # the least and the most of each
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_FIELDS = ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "seed", "n")
_MAX_TOKENS = 1_000_000
_MAX_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request may hold.

    Args:
        model: the only one, by its name.
        prepare: bounds of images.
        max_images: of a request.
        max_bytes: of one image.
        max_tokens: new ones, where the request does not say.
        folder: images that may be named by file: URLs lie below it.
        hosts: images may be fetched from these.
    """

    model: str
    prepare: PrepareParams
    max_images: int
    max_bytes: int
    max_tokens: int
    folder: Path | None
    hosts: Hosts = Hosts(frozenset())


@dataclass(frozen=True, slots=True)
class Order:
    """A request that can be sent to the engine.

    Args:
        body: in OpenAI's form, all images prepared, without model and stream.
        stream: the client wants the text as it comes.
        usage: the client wants the number of tokens at the end of the stream.
    """

    body: dict[str, Any]
    stream: bool
    usage: bool = field(default=False)


def read_order(data: bytes, rules: Rules) -> Order:
    """Return the request in the bytes of a JSON document.

    Raises:
        Refusal: 400, it is no chat request, or asks for what is not served; 404, another model; 413 or 415, an image.
    """
    try:
        asked = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise bad(f"the request is not JSON ({exc})", "invalid_json") from exc
    if not isinstance(asked, dict):
        raise bad(f"found {_kind(asked)}, need an object with messages")
    for name in asked:
        if name not in _FIELDS and name not in _NUMBERS:
            raise bad(
                f"found the field {name[:100]!r}, need some of {', '.join((*_FIELDS, *_NUMBERS))}", "unknown_field"
            )
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked.get("model", rules.model) != rules.model:
        raise Refusal(404, f"found the model {str(asked['model'])[:200]!r}, have {rules.model!r}", "model_not_found")
    if not isinstance(stream := asked.get("stream", False), bool):
        raise bad(f"stream: found {_kind(stream)}, need true or false")
    body = {"messages": _messages(asked.get("messages"), rules), **_settings(asked, rules)}
    return Order(body, stream, _wants_usage(asked.get("stream_options", {})))


def _wants_usage(options: Any) -> bool:
    if not isinstance(options, dict) or not options.keys() <= {"include_usage"}:
        raise bad('stream_options: need {"include_usage": true} or nothing')
    return bool(options.get("include_usage", False))


def _settings(asked: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (least, most) in _NUMBERS.items():
        if name in asked:
            found[name] = _number(name, asked[name], least, most)
    tokens = asked.get("max_completion_tokens", asked.get("max_tokens", rules.max_tokens))
    found["max_tokens"] = _whole("max_tokens", tokens, 1, _MAX_TOKENS)
    if "seed" in asked:
        found["seed"] = _whole("seed", asked["seed"], 0, 2**31 - 1)
    if asked.get("n", 1) != 1:
        raise bad("n: this server gives one answer, need 1")
    if "stop" in asked:
        found["stop"] = _stops(asked["stop"])
    return found


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise bad(f"{name}: found {_shown(value)}, need a number from {least} to {most}")
    return value


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise bad(f"{name}: found {_shown(value)}, need a whole number from {least} to {most}")
    return value


def _stops(value: Any) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not 1 <= len(words) <= 16 or not all(isinstance(w, str) and w for w in words):
        raise bad("stop: need a text, or a list of at most 16")
    return words


def _messages(found: Any, rules: Rules) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not 1 <= len(found) <= _MAX_MESSAGES:
        raise bad(f"messages: need a list of 1 to {_MAX_MESSAGES}")
    n_images = sum(1 for _ in _image_parts(found))
    if n_images > rules.max_images:
        raise Refusal(413, f"found {n_images} images, need at most {rules.max_images}", "too_many_images")
    sources = Sources(rules.folder, rules.hosts, time.monotonic() + FETCH_LIMIT_S)
    messages = [_message(message, f"messages[{place}]", rules, sources) for place, message in enumerate(found)]
    if messages[-1]["role"] == "assistant":
        raise bad("messages: found an answer as the last one, need a question")
    return messages


def _image_parts(messages: list[Any]) -> Iterator[Any]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "image_url":
                yield part


def _message(message: Any, place: str, rules: Rules, sources: Sources) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise bad(f"{place}: need an object with one of the roles {', '.join(_ROLES)}")
    role, content = message["role"], message.get("content")
    role = "system" if role == "developer" else role  # which templates know
    if isinstance(content, str):
        return {"role": role, "content": [{"type": "text", "text": content}]}
    if not isinstance(content, list) or not content:
        raise bad(f"{place}.content: found {_kind(content)}, need a text, or a list of texts and images")
    parts = [_part(part, f"{place}.content[{n}]", rules, sources) for n, part in enumerate(content)]
    return {"role": role, "content": parts}


def _part(part: Any, place: str, rules: Rules, sources: Sources) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind != "image_url":
        raise bad(f"{place}: found a part that is neither a text nor an image_url", "unknown_part")
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str):
        raise bad(f"{place}.image_url: found {_kind(url)}, need an object with a url", "invalid_image_url")
    data = content_of(url, place, sources, rules.max_bytes)
    return {"type": "image_url", "image_url": {"url": prepared(data, rules.prepare, place, rules.max_bytes)}}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false"}.get(type(value), "a number")


def _shown(value: Any) -> str:
    return repr(value)[:100] if isinstance(value, int | float | str) else _kind(value)
