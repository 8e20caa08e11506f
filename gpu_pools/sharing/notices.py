"""Leaves word of what people are to be told; a service of `yard up` sends it (deployments/notices)."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from gpu_pools.names import NOBODY
from gpu_pools.sharing.notice_settings import Kind, concerned
from gpu_pools.sharing.settings import YardSettings, read_settings
from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import home, storage_errors, write_json

logger = logging.getLogger("trainyard.notices")

_OF_ALL = ("device-lost", "disk-low")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people are to be told.

    Args:
        id: the same for the same thing, whoever says it and how often.
        kind: of it.
        text: a sentence: what happened, and why.
        owner: whom it concerns, `anna@boxa`, several with ", " between them; empty: nobody in particular, so those who
            are told of everything.
        run_id, run_name: the run, if it is one's.
        device: `cuda:1`, or empty.
        figures: name -> value, as people read them, in this order.
        at: Unix seconds.
    """

    id: str
    kind: Kind
    text: str
    owner: str = ""
    run_id: str = ""
    run_name: str = ""
    device: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    at: float = 0.0


def notify(
    kind: Kind,
    key: str,
    text: str,
    *,
    owner: str = "",
    run_id: str = "",
    run_name: str = "",
    device: str = "",
    figures: Mapping[str, str] | None = None,
) -> None:
    """Leave word of something, once; does nothing where nobody is to be told, and never fails.

    Args:
        kind: of what happened.
        key: tells it from others of its kind: a booking's id with its beginning, a run's id. What is said again, also
            by another process or after a restart, is not told again.
        text: a sentence: what happened, and why.
        owner: whom it concerns; empty: who is told of everything.
        run_id, run_name, device: that it is about.
        figures: name -> value, as people read them: {"free": "3.1 GB"}.
    """
    word = Notice(
        *(notice_id(kind, key), kind, text, owner, run_id, run_name, device), figures=figures or {}, at=time.time()
    )
    try:
        leave(word, read_settings())
    except (ConfigError, StorageError) as exc:  # people can do without a notice; who calls goes on with its work
        logger.warning("nobody is told that %s: %s", text, exc)


def notice_id(kind: Kind, key: str) -> str:
    """Return the id of what has this key."""
    return str(uuid5(NAMESPACE_URL, f"trainyard:{kind}:{key}"))


def leave(notice: Notice, settings: YardSettings) -> bool:
    """Put a notice where it is sent from, unless it was there before or concerns nobody; return whether it is new.

    Raises:
        StorageError: it cannot be written.
    """
    if not recipients(notice, settings) or waiting_file(notice.id).exists() or told_file(notice.id).exists():
        return False
    path = waiting_file(notice.id)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(path, asdict(notice))
    return True


def recipients(notice: Notice, settings: YardSettings) -> list[str]:
    """Return the names of those whom a notice concerns; the admins as well, if it is nobody's or everybody's."""
    owners = [owner for owner in notice.owner.split(", ") if owner and owner not in NOBODY]
    if not owners or notice.kind in _OF_ALL:
        owners += ["", *settings.admins]
    return [
        name
        for name, recipient in settings.notices.to.items()
        if any(concerned(recipient, notice.kind, each, settings.groups) for each in owners)
    ]


def folder() -> Path:
    """Return where notices lie."""
    return home() / "notices"


def waiting_file(notice_id: str) -> Path:
    """Return the file of a notice that is to be sent."""
    return folder() / "waiting" / f"{notice_id}.json"


def told_file(notice_id: str) -> Path:
    """Return the file that says what became of a notice."""
    return folder() / "told" / f"{notice_id}.json"


def read_waiting() -> list[Notice]:
    """Return what is to be sent, oldest first.

    Raises:
        StorageError: a file is damaged.
    """
    found = [_read(path) for path in (folder() / "waiting").glob("*.json")]
    return sorted(found, key=lambda notice: notice.at)


def _read(path: Path) -> Notice:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return Notice(**content)
    except (ValueError, TypeError) as exc:
        raise StorageError(f"cannot read {path}: need a notice; remove it") from exc
