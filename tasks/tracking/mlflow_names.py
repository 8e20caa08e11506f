"""Brings names and values into the form that MLflow accepts."""

import json
import re
import unicodedata
from collections.abc import Mapping
from hashlib import blake2s
from pathlib import PurePath
from typing import Any

from tasks.tracking.provenance import redacted

FLOW_RUN = "prefect.flow_run_id"
"""Tag of an MLflow run: the Prefect run it belongs to."""

_NAME = re.compile(r"[\w\-. :/]{1,250}", re.ASCII)
_MAX_PARAM = 6000  # characters, MLflow refuses more
_MAX_TAG = 8000
_MAX_PART = 80


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return names with dots and text for nested parameters; no secret a URL carries.

    Raises:
        ValueError: MLflow does not take a name.
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
            continue
        check_name("parameter", name)
        text = json.dumps(value, default=str) if isinstance(value, (list, tuple, dict)) else str(value)
        flat[name] = redacted(text)
    return flat


def check_name(what: str, name: str) -> None:
    """Pass a name MLflow takes for a metric, parameter, tag or series of images.

    Raises:
        ValueError: it would be refused.
    """
    normal = "/".join(part for part in name.split("/") if part not in {"", ".", ".."})
    if not _NAME.fullmatch(name) or normal != name:
        raise ValueError(f"found the {what} name {name!r}, need at most 250 letters, digits and _-. :/, as in a path")


def as_name(text: str) -> str:
    """Return a text, whatever it is, as one part of a name in MLflow or of a path; different ones stay different.

    One that can be taken stays as it is; any other is brought to ASCII and marked: "jet (1)" -> "jet _1-5f1c3a".
    """
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^\w. -]+", "_", ascii_only, flags=re.ASCII)[:_MAX_PART].strip(" ._-")
    if plain == text:
        return text
    mark = blake2s(text.encode("utf-8", "surrogateescape"), digest_size=3).hexdigest()
    return f"{plain}-{mark}" if plain else mark


def stem_as_name(path: str) -> str:
    """Return `as_name` of a file's path without its suffix, the folders in it included."""
    return as_name(PurePath(path).with_suffix("").as_posix())


def param_value(text: str) -> str:
    """Return `text`, cut where MLflow would refuse it."""
    return text if len(text) <= _MAX_PARAM else text[: _MAX_PARAM - 3] + "..."


def tag_value(text: str) -> str:
    """Return `text` without user and password of a URL, cut where MLflow would refuse it."""
    return redacted(text)[:_MAX_TAG]
