"""Writes a notice as people get it: a short subject, a plain text, a JSON document."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from gpu_pools.sharing.notice_settings import Kind
from gpu_pools.sharing.notices import Notice
from tasks.base.errors import TrainyardError

_MOST_SUBJECT = 120
_ORDER = ("run", "owner", "device", "waited", "ran", "attempts", "result", "Prefect")

_WORDS: Mapping[Kind, str] = {
    "started": "started",
    "finished": "finished",
    "failed": "FAILED",
    "refused": "refused",
    "stopping-soon": "will be stopped soon",
    "booking-soon": "booking soon",
    "idle": "idle",
    "device-lost": "device lost",
    "disk-low": "disk low",
}


class SendError(TrainyardError):
    """A message could not be handed over."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent; its fields are the keys of the JSON document of a webhook.

    Args:
        id: of the notice: the same where it is sent again.
        kind: of what happened; "test" for a test.
        subject: one line.
        text: what happened, in a sentence or two.
        owner: whom it concerns; empty: nobody in particular.
        run_id, run_name, device: that it is about, or empty.
        figures: name -> value, as people read them.
        links: name -> address.
        at: when, ISO 8601.
    """

    id: str
    kind: str
    subject: str
    text: str
    owner: str = ""
    run_id: str = ""
    run_name: str = ""
    device: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    at: str = ""

    def __post_init__(self) -> None:
        """Refuse an id that is none: files are named after it."""
        UUID(self.id)

    def as_json(self) -> dict[str, Any]:
        """Return it as a webhook gets it."""
        return asdict(self)

    def plain(self) -> str:
        """Return it as a text of columns, for a mail."""
        parts = [self.text, table(self.figures), table(self.links)]
        return "\n\n".join(filter(None, parts)) + "\n"


def parse(body: str, subject: str, own_id: str) -> Message:
    """Return the message that a JSON document holds, or one of another text, as people's own automations send.

    Args:
        body: document or text.
        subject: of the text.
        own_id: of the text.
    """
    try:
        return TypeAdapter(Message).validate_json(body)
    except ValidationError:
        return Message(own_id, "own", _line(subject), body)


def compose(notice: Notice, figures: Mapping[str, str], links: Mapping[str, str]) -> Message:
    """Return a notice as a message.

    Args:
        notice: to be told.
        figures: of the run, beside its own.
        links: name -> address.
    """
    about = notice.run_name or notice.device
    subject = _line(f"{_WORDS[notice.kind]}: {about}" if about else _WORDS[notice.kind])
    return Message(
        *(notice.id, notice.kind, subject, notice.text, notice.owner),
        run_id=notice.run_id,
        run_name=notice.run_name,
        device=notice.device,
        figures={**notice.figures, **figures},
        links=links,
        at=datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="seconds"),
    )


def table(rows: Mapping[str, str]) -> str:
    """Return rows of two columns, in the order in which people read them: Prefect sorts them by name on their way."""
    width = max(map(len, rows), default=0)
    known = [name for name in _ORDER if name in rows] + [name for name in rows if name not in _ORDER]
    return "\n".join(f"{name:<{width}}  {rows[name]}" for name in known)


def _line(text: str) -> str:
    """Return a text as one line that a list of mails has room for."""
    words = " ".join(text.split())
    return words if len(words) <= _MOST_SUBJECT else f"{words[: _MOST_SUBJECT - 3]}..."
