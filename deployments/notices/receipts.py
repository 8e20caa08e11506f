"""Hands each notice to each recipient once, whoever asks and how often: what became of it is on disk."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.notices.messages import Message, SendError
from gpu_pools.sharing.notices import folder
from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import try_lock
from tasks.base.workspace import storage_errors, write_json


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a notice to one recipient.

    Args:
        sent: a server has taken it.
        answer: of the server, or why it was not taken; empty while it is on its way.
        at: Unix seconds.
    """

    sent: bool = False
    answer: str = ""
    at: float = 0.0


def receipt_file(notice_id: str, name: str) -> Path:
    """Return the file of a receipt."""
    return folder() / "receipts" / f"{notice_id}.{name}.json"


def read_receipt(notice_id: str, name: str) -> Receipt | None:
    """Return what became of a notice to a recipient; None: nobody has tried yet.

    Raises:
        StorageError: the file is damaged.
    """
    path = receipt_file(notice_id, name)
    try:
        return Receipt(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as exc:
        raise StorageError(f"cannot read {path}: need a receipt of a notice; remove it") from exc


def deliver(message: Message, name: str, send: Callable[[], str]) -> None:
    """Send a message, unless it was sent or somebody is just sending it.

    The receipt is begun before: where it cannot be written nothing is sent. Where this process is killed before it has
    the answer, the message is sent again, with the same id.

    Args:
        message: to be sent.
        name: of the recipient.
        send: sends it, and returns the answer.

    Raises:
        SendError: it was not taken.
        ConfigError: the settings are wrong.
        StorageError: the receipt cannot be written.
    """
    path = receipt_file(message.id, name)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = try_lock(path.with_suffix(".lock"))
    if lock is None:
        return
    try:
        known = read_receipt(message.id, name)
        if known is None or not known.sent:
            _send(path, send)
    finally:
        os.close(lock)


def _send(path: Path, send: Callable[[], str]) -> None:
    _write(path, Receipt())
    try:
        answer = send()
    except (SendError, ConfigError) as exc:
        _write(path, Receipt(answer=str(exc), at=time.time()))
        raise
    _write(path, Receipt(True, answer, time.time()))


def _write(path: Path, receipt: Receipt) -> None:
    write_json(path, asdict(receipt))


def forget(notice_id: str) -> None:
    """Remove the receipts of a notice, which is told of elsewhere now."""
    for path in (folder() / "receipts").glob(f"{notice_id}.*"):
        path.unlink(missing_ok=True)
