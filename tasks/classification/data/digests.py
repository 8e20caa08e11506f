"""Computes digests of files, and keeps them in a table beside a prepared data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.outside import read_json
from tasks.base.workspace import write_json

TABLE = "digests.json"
"""In the folder of a prepared dataset: path below it -> [bytes, time of the last change in ns, digest]."""


def write_digests(root: Path, digests: Mapping[str, str]) -> None:
    """Leave the table beside the files of a prepared dataset.

    Args:
        root: of the dataset.
        digests: path of a file below it -> digest of its content.
    """
    table = {}
    for name, digest in digests.items():
        status = (root / name).stat()
        table[name] = [status.st_size, status.st_mtime_ns, digest]
    write_json(root / TABLE, table)


def known_digests(root: Path, paths: Sequence[Path]) -> list[str | None]:
    """Return the digest of each file as the table in `root` has it; None for one that is not in it or has changed.

    Args:
        root: of the dataset; without a table nothing is known.
        paths: files below it.

    Raises:
        DatasetError: the table is damaged.
    """
    path = root / TABLE
    table = read_json(path, DatasetError) if path.is_file() else {}
    if not isinstance(table, dict):
        raise DatasetError(f"found a {type(table).__name__}, need a table of digests: {path}")
    return [_if_unchanged(file, table.get(file.relative_to(root).as_posix())) if table else None for file in paths]


def _if_unchanged(path: Path, row: Sequence[object] | None) -> str | None:
    if row is None:
        return None
    status = path.stat()
    return str(row[2]) if list(row[:2]) == [status.st_size, status.st_mtime_ns] else None
