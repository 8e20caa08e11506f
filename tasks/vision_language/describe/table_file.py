"""Reads a table of questions: CSV with a header, or a JSON object on each line."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.outside import TABLE_BYTES, read_text

TABLES = frozenset({".csv", ".jsonl", ".ndjson"})
"""Suffixes of tables."""

_IMAGES = ("images", "image", "path", "file")
_LIST = ";"

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table, at least one.

    Raises:
        DatasetError: it cannot be read, holds no row, or a line of it makes no sense.
    """
    text = read_text(path, DatasetError, TABLE_BYTES)
    rows = _of_csv(text, path) if path.suffix.lower() == ".csv" else _of_lines(text, path)
    if not rows:
        raise DatasetError(f"found no row, need at least one: {path}")
    return rows


def _of_csv(text: str, path: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise DatasetError(f"found a column twice in {', '.join(header)}, need different names: {path}")
        for row in reader:
            if None in row or None in row.values():
                raise DatasetError(f"line {reader.line_num} has not the {len(header)} values of the header: {path}")
            rows.append(row)
    except csv.Error as exc:
        raise DatasetError(f"line {reader.reader.line_num} is not CSV ({exc}): {path}") from exc
    return rows


def _of_lines(text: str, path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise DatasetError(f"line {number} is not JSON ({exc}): {path}") from exc
        if not isinstance(row, dict):
            raise DatasetError(f"line {number} holds a {type(row).__name__}, need an object: {path}")
        rows.append(row)
    return rows


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns, in the order of their first row."""
    return list(dict.fromkeys(name for row in rows for name in row))


def image_columns(wanted: Sequence[str], columns: Sequence[str], path: Path) -> list[str]:
    """Return the columns that name images.

    Args:
        wanted: as given; empty: the first that is called so.
        columns: there are.
        path: of the table, for the message.

    Raises:
        ConfigError: there is none of that name.
    """
    found = list(wanted) or [name for name in _IMAGES if name in columns][:1]
    if not found:
        raise ConfigError(f"found no column {' or '.join(_IMAGES)}, need read.images to be of {_all(columns)}: {path}")
    for name in found:
        check_column(name, "read.images", columns, path)
    return found


def check_column(name: str, parameter: str, columns: Sequence[str], path: Path) -> None:
    """Hold a column that a parameter names against those there are.

    Raises:
        ConfigError: it is not there.
    """
    if name not in columns:
        raise ConfigError(f"found {parameter}={name}, need one of the columns {_all(columns)}: {path}")


def named_images(row: Row, columns: Sequence[str], folder: Path) -> list[Path]:
    """Return the images that a row names: in a list, or in a text with `;` between; relative to the table's folder."""
    names: list[str] = []
    for column in columns:
        cell = row.get(column)
        parts = cell if isinstance(cell, list) else str(cell or "").split(_LIST)
        names += [str(part).strip() for part in parts if str(part).strip()]
    return [folder / Path(name).expanduser() for name in names]


def as_text(cell: Any) -> str:
    """Return a cell as people would write it: nothing for null, JSON for lists and objects."""
    if cell is None:
        return ""
    return as_utf8(cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False))


def as_utf8(text: str) -> str:
    r"""Return a text with what is not UTF-8, as names of files may have it, as \x escapes: no model takes it."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair of UTF-16, which JSON may hold
        return text.encode("utf-8", "backslashreplace").decode()


def _all(columns: Sequence[str]) -> str:
    return ", ".join(map(str, columns)) or "none at all"
