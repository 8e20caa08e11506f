"""Keeps each answer in a file as soon as it is there, so that no question is asked twice."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tasks.base.errors import StorageError
from tasks.base.workspace import storage_errors
from tasks.vision_language.describe.resume_point import LOG

_SYNC_EVERY_S = 1.0  # a disk that others write to takes longer than a batch of a small model


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question."""

    key: str  # of the question
    text: str | None = None
    n_prompt: int = 0  # tokens, of all that it was asked
    n_new: int = 0  # tokens, of all that it answered
    seconds: float = 0.0  # its share of its batches
    finish: str | None = None  # stop; length: cut off at ask.max_tokens
    n_asked: int = 0
    value: Any = None  # of an answer in JSON that fits the schema
    fault: str | None = None  # why it does not fit, also when asked again
    error: str | None = None  # why it was not asked


class AnswerLog:
    """The answers there are, from whichever attempt, and the file they are added to.

    Args:
        folder: of the stage; exists.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self.answers: dict[str, Answer] = {}
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        """Read what an earlier attempt has left; the end of a line that it was killed in is removed."""
        with storage_errors(self._path):
            self._file = self._path.open("a+b")
            self._file.seek(0)
            content = self._file.read()
            whole = content.rfind(b"\n") + 1
            self._file.truncate(whole)
        for line in content[:whole].splitlines():
            answer = self._read(line)
            if answer.error is None:  # what could not be asked may be repaired since
                self.answers[answer.key] = answer
        return self

    def _read(self, line: bytes) -> Answer:
        try:
            return Answer(**json.loads(line))
        except (ValueError, TypeError) as exc:
            raise StorageError(f"{self._path} is damaged ({exc}): remove it to ask all questions anew") from exc

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        with storage_errors(self._path), self._file:
            self._sync()

    def add(self, answers: Sequence[Answer]) -> None:
        """Keep answers; once this returns, they survive a kill, and a second later a power cut.

        Raises:
            StorageError: the disk is full.
        """
        lines = b"".join(json.dumps(asdict(answer)).encode() + b"\n" for answer in answers)
        with storage_errors(self._path):
            self._file.write(lines)
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY_S:
                self._sync()
        self.answers |= {answer.key: answer for answer in answers}

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()
