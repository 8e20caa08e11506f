"""Says of the notices of a home who is told what, and what could not be told lately."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from deployments.notices.receipts import Receipt
from gpu_pools.sharing.notice_settings import NoticeSettings, Recipient, address_of, secret_of
from gpu_pools.sharing.notices import folder
from gpu_pools.sharing.settings import read_settings, settings_path
from tasks.base.errors import ConfigError

_LATELY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RecipientRow:
    """A recipient in a list; the fields are the keys of `--json`.

    Args:
        name: of it.
        way: mail, slack or webhook.
        to: the address, for a mail; of a webhook, which is a secret, where it stands.
        owners: whose runs; empty: everybody's.
        kinds: of notices.
        last, answer, at: whether the last notice of a day was taken, what was answered, and when (ISO 8601); None and
            empty without one.
    """

    name: str
    way: str
    to: str
    owners: tuple[str, ...]
    kinds: tuple[str, ...]
    last: bool | None = None
    answer: str = ""
    at: str = ""


def recipient_rows(settings: NoticeSettings) -> list[RecipientRow]:
    """Return the recipients, with what became of the last notice to each."""
    latest = _latest()
    return [_row(name, recipient, latest.get(name)) for name, recipient in settings.to.items()]


def _row(name: str, recipient: Recipient, last: Receipt | None) -> RecipientRow:
    files = {"slack": recipient.slack_file, "webhook": recipient.webhook_file}
    to = recipient.mail or f"in {files.get(recipient.way) or settings_path().name}"
    row = (name, recipient.way, to, recipient.owners, recipient.kinds)
    if last is None:
        return RecipientRow(*row)
    return RecipientRow(*row, last.sent, last.answer, datetime.fromtimestamp(last.at).isoformat(timespec="seconds"))


def _latest() -> dict[str, Receipt]:
    """Return the newest receipt of each recipient, of the last day."""
    found: dict[str, Receipt] = {}
    for name, receipt in _receipts():
        if receipt.at and (name not in found or receipt.at > found[name].at):
            found[name] = receipt
    return found


def _receipts() -> Iterator[tuple[str, Receipt]]:
    """Yield recipient and receipt; those of what is being sent are read as they are, and may be half an answer."""
    since = time.time() - _LATELY_S
    for path in folder().glob("told/*.json"):
        if path.stat().st_mtime >= since:
            told = json.loads(path.read_text())
            for name, receipt in told["to"].items():
                yield name, Receipt(**{**receipt, "at": receipt["at"] or told["at"]})
    for path in folder().glob("receipts/*.json"):
        yield path.name.split(".")[1], Receipt(**json.loads(path.read_text()))


def n_waiting() -> int:
    """Return how many notices are to be sent."""
    return sum(1 for _ in folder().glob("waiting/*.json"))


def notice_faults() -> list[str]:
    """Return what keeps notices from being sent, a sentence each; empty where nobody is to be told."""
    try:
        settings = read_settings().notices
        if settings.to and settings_path().stat().st_uid == os.geteuid():  # others may not read the secrets
            _check_secrets(settings)
    except ConfigError as exc:
        return [f"notices: {exc}"]
    return [
        f"notices: {row.name} was not told, last at {row.at}: {row.answer}"
        for row in recipient_rows(settings)
        if row.last is False
    ]


def _check_secrets(settings: NoticeSettings) -> None:
    """Read every secret once.

    Raises:
        ConfigError: others can read one, or it is missing.
    """
    if settings.mail is not None and settings.mail.user:
        secret_of(settings.mail.password, settings.mail.password_file, settings_path())
    for recipient in settings.to.values():
        if recipient.way != "mail":
            address_of(recipient, settings_path())
