"""Turns data into questions: an image, a row of a table, or some seconds of a video each."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.outside import check_file
from tasks.base.workspace import allowed_path
from tasks.images import video
from tasks.images.files import find_images
from tasks.images.images import IMAGE_SUFFIXES
from tasks.vision_language.describe.params import AnswerGradeParams, ReadParams
from tasks.vision_language.describe.table_file import (
    TABLES,
    Row,
    as_text,
    as_utf8,
    check_column,
    columns_of,
    image_columns,
    named_images,
    read_rows,
)

_PLACEHOLDER = re.compile(r"\{\{(?P<kept>\w[\w .-]*)\}\}|\{(?P<name>\w[\w .-]*)\}")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked once."""

    number: int  # from 0, in the order of the data
    images: tuple[Path, ...]
    prompt: str  # as the model is asked
    times: tuple[float, ...] = ()  # of a video, the moments to look at, seconds since its start
    values: Mapping[str, str] = field(default_factory=dict)  # the other columns of its row
    right: str | None = None  # the answer that is right
    error: str | None = None  # why it cannot be asked

    @property
    def key(self) -> str:
        """Return what it is told apart by, from one attempt of a run to the next."""
        asked = [[str(path) for path in self.images], self.times, self.prompt]
        return blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()


def find_questions(data: Path, prompt: str, read: ReadParams, grade: AnswerGradeParams) -> list[Question]:
    """Return the questions over an image, a folder (all images below it), a table or a video, in order.

    Args:
        data: where they are; a table's images are named relative to its folder.
        prompt: with placeholders.
        read: how data become questions.
        grade: where right answers are.

    Raises:
        DatasetError: nothing is there, or it cannot be used.
        ConfigError: a column that is named is not there, or the data lead outside the allowed roots.
    """
    found = allowed_path(data)
    if found.is_dir():
        images, n_other = find_images(found)
        if not images:
            raise DatasetError(f"found no image among {n_other} file(s), need at least one: {found}")
        return _of_images(images, prompt, grade)
    check_file(found, DatasetError)
    suffix = found.suffix.lower()
    if suffix in TABLES:
        return _of_table(found, prompt, read, grade)
    if suffix in IMAGE_SUFFIXES:
        return _of_images([found], prompt, grade)
    return _of_video(found, prompt, read, grade)


def _of_images(images: Sequence[Path], prompt: str, grade: AnswerGradeParams) -> list[Question]:
    _check_no_column(grade, "images")
    return [
        Question(
            number,
            (path,),
            filled(prompt, _of_file(path), "an image"),
            right=as_utf8(path.parent.name) if grade.by_folder else None,
        )
        for number, path in enumerate(images)
    ]


def _of_file(path: Path) -> dict[str, str]:
    return {"name": as_utf8(path.name), "folder": as_utf8(path.parent.name)}


def _of_table(path: Path, prompt: str, read: ReadParams, grade: AnswerGradeParams) -> list[Question]:
    rows = read_rows(path)
    columns = columns_of(rows)
    named = image_columns(read.images, columns, path)
    if grade.column is not None:
        check_column(grade.column, "grade.column", columns, path)
    return [_of_row(number, row, columns, named, prompt, grade, path) for number, row in enumerate(rows)]


def _of_row(
    number: int,
    row: Row,
    columns: Sequence[str],
    named: Sequence[str],
    prompt: str,
    grade: AnswerGradeParams,
    path: Path,
) -> Question:
    values = {name: as_text(row.get(name)) for name in columns}
    images, error = named_images(row, named, path.parent), None
    try:
        images = [allowed_path(image) for image in images]
    except ConfigError as exc:
        images, error = [], str(exc)
    if not images and error is None:
        error = f"found no image in column {', '.join(named)}, need at least one: row {number + 1} of {path}"
    right = values[grade.column] if grade.column is not None else None
    if grade.by_folder and images:
        right = as_utf8(images[0].parent.name)
    text = filled(prompt, values, str(path))
    kept = {name: value for name, value in values.items() if name not in named}
    return Question(number, tuple(images), text, values=kept, right=right or None, error=error)


def _of_video(path: Path, prompt: str, read: ReadParams, grade: AnswerGradeParams) -> list[Question]:
    _check_no_column(grade, "a video")
    info = video.probe(path)
    length_s, shown_s = info.duration_s, info.duration_s / info.n_packets
    clip_s = min(read.clip_s or length_s, length_s)
    text = filled(prompt, _of_file(path), "a video")
    n_clips = math.ceil(length_s / clip_s - 1e-6)  # the last one may be shorter
    return [
        Question(
            number,
            (path,),
            text,
            times=_moments(number * clip_s, min((number + 1) * clip_s, length_s), read.frames, shown_s),
            right=as_utf8(path.parent.name) if grade.by_folder else None,
        )
        for number in range(n_clips)
    ]


def _moments(start_s: float, end_s: float, n: int, shown_s: float) -> tuple[float, ...]:
    """Return the middles of n equal parts of a stretch of time, as the earliest start of the image that is shown then.

    Args:
        shown_s: for how long an image is shown.
    """
    return tuple(max(0.0, start_s + (i + 0.5) * (end_s - start_s) / n - shown_s) for i in range(n))


def _check_no_column(grade: AnswerGradeParams, what: str) -> None:
    if grade.column is not None:
        raise ConfigError(f"found grade.column={grade.column} for {what}, need a table, or grade.by_folder=true")


def filled(prompt: str, values: Mapping[str, str], where: str) -> str:
    """Return a prompt with its placeholders replaced; `{{name}}` means `{name}` itself, other braces are left.

    Args:
        prompt: as a person wrote it.
        values: by the names that a placeholder may have.
        where: they are from, for the message.

    Raises:
        ConfigError: there is no value of a name.
    """

    def value(found: re.Match[str]) -> str:
        if kept := found["kept"]:
            return f"{{{kept}}}"
        if found["name"] not in values:
            have = ", ".join(values) or "none"
            raise ConfigError(
                f"found {found[0]} in ask.prompt, need one of {have} of {where}, or {{{found[0]}}} for itself"
            )
        return values[found["name"]]

    return _PLACEHOLDER.sub(value, prompt)
