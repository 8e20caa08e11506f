"""Opens the files that people name, if they are plain files of bounded size and depth.

A path can lead anywhere. A pipe or a device has no end, a file full of nothing can be larger than memory, and a text
can be nested until the interpreter gives up. So whatever comes from outside is opened here and nowhere else; each
reader says with which error it refuses.
"""

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from tasks.base.errors import DatasetError, TrainyardError

MIB = 2**20
PARAMETER_BYTES = MIB
"""Of a file of parameters: a thousand classes with long names need a tenth of it."""
TABLE_BYTES = 256 * MIB
"""Of a table or a JSON file that describes data: a line for each of a million images."""
CLOUD_BYTES = 16 * 1024 * MIB
"""Of a model or a cloud of points, which are read whole."""
WEIGHTS_BYTES = 64 * 1024 * MIB
"""Of a file of weights."""
MAX_DEPTH = 64
"""Lists and mappings inside of each other; what is read here has five or so."""
MAX_VALUES = 1_000_000
"""Values in a YAML text after its aliases are written out: nine lines can mean a billion."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# What PyYAML raises on texts that are YAML, but whose values are not what their tags or forms promise.
_BAD_YAML = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast; PyYAML may lack it


def check_file(path: Path, error: type[TrainyardError], most_bytes: int | None = None) -> int:
    """Return the size of a plain file, for libraries that open it themselves.

    Args:
        path: symbolic links are followed.
        error: what is raised.
        most_bytes: None where the file is read in pieces.

    Raises:
        TrainyardError: it is missing, larger, or a folder, pipe, socket or device.
    """
    try:
        status = path.stat()
    except OSError as exc:
        raise error(f"cannot be read, {exc.strerror}: {path}") from exc
    except ValueError as exc:  # a NUL in the name
        raise error(f"cannot be read, {exc}: {str(path)!r}") from exc
    _check(status, path, error, most_bytes)
    return status.st_size


def _check(status: os.stat_result, path: Path, error: type[TrainyardError], most_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise error(f"found {kind}, need a plain file: {path}")
    if most_bytes is not None and status.st_size > most_bytes:
        raise error(f"found {status.st_size} bytes, need at most {most_bytes}: {path}")


def open_file(path: Path, error: type[TrainyardError], most_bytes: int | None = None) -> BinaryIO:
    """Return a plain file, open for reading; see `check_file`.

    Raises:
        TrainyardError: as `check_file`.
    """
    check_file(path, error, most_bytes)  # checked before it is opened, because opening some devices starts them
    try:
        # Non-blocking: a pipe may have taken the file's place since the check.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    except OSError as exc:
        raise error(f"cannot be read, {exc.strerror}: {path}") from exc
    try:
        _check(os.fstat(file.fileno()), path, error, most_bytes)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, error: type[TrainyardError], most_bytes: int) -> bytes:
    """Return the content of a plain file of at most `most_bytes`.

    Raises:
        TrainyardError: as `open_file`; reading fails, or the file grows meanwhile.
    """
    with open_file(path, error, most_bytes) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = file.read(size + 1) or b""  # None: one of the kernel's, which have no size and may never answer
        except OSError as exc:
            raise error(f"cannot be read, {exc.strerror}: {path}") from exc
    if len(data) > size:
        raise error(f"has more than the {size} bytes it should have, need a file that nobody writes: {path}")
    return data


def read_text(path: Path, error: type[TrainyardError], most_bytes: int) -> str:
    """Return a plain file of UTF-8, with or without a byte order mark.

    Raises:
        TrainyardError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, error, most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(f"is not UTF-8 text ({exc}): {path}") from exc


def read_json(path: Path, error: type[TrainyardError], most_bytes: int = TABLE_BYTES) -> Any:
    """Return what a JSON file holds.

    Raises:
        TrainyardError: as `read_text`; it is not JSON, or is nested deeper than `MAX_DEPTH`.
    """
    text = read_text(path, error, most_bytes)
    try:
        value = json.loads(text)
    except RecursionError as exc:
        raise error(f"is nested deeper than {MAX_DEPTH}: {path}") from exc
    except ValueError as exc:
        raise error(f"is not JSON ({exc}): {path}") from exc
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
    if level:
        raise error(f"is nested deeper than {MAX_DEPTH}: {path}")
    return value


def _inside(outer: dict[str, Any] | list[Any]) -> Iterator[Any]:
    yield from outer.values() if isinstance(outer, dict) else outer


def check_packed(file: BinaryIO, path: Path, error: type[TrainyardError]) -> None:
    """Refuse a ZIP archive that unpacks to more bytes than it has; the file is left where it was.

    Raises:
        TrainyardError: it does, or it is damaged.
    """
    before = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as exc:
        raise error(f"is a damaged archive ({exc}): {path}") from exc
    finally:
        file.seek(before)
    size = os.fstat(file.fileno()).st_size
    if unpacked > size:
        raise error(f"unpacks to {unpacked} bytes from {size}, need an archive that is not compressed: {path}")


def parse_yaml(text: str, error: type[TrainyardError], what: str) -> Any:
    """Return what a YAML text holds.

    Args:
        what: the text is, for the message.

    Raises:
        TrainyardError: it is not YAML, is nested deeper than `MAX_DEPTH`, means more than `MAX_VALUES` values, or holds
            itself.
    """
    try:
        _check_yaml(text, error, what)
        return yaml.load(text, Loader=_Loader)
    except _BAD_YAML as exc:
        raise error(f"{what} is not YAML: {' '.join(str(exc).split())}") from exc


def _check_yaml(text: str, error: type[TrainyardError], what: str) -> None:
    """Look at a YAML text piece by piece: what builds its values calls itself for each level."""
    counts: dict[str | None, int] = {}  # anchor -> values
    open_: list[tuple[str | None, int]] = []  # lists and mappings that have not ended: anchor, values before it
    n = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, n))
            n += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                counts[anchor] = n - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise error(f"{what} holds itself, by *{event.anchor}")
            n += counts.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            n += 1
        if len(open_) > MAX_DEPTH:
            raise error(f"{what} is nested deeper than {MAX_DEPTH}")
        if n > MAX_VALUES:
            raise error(f"{what} means more than {MAX_VALUES} values")


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what os.walk does of a folder of data, hidden names left out; links to folders are named, not followed.

    Raises:
        DatasetError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DatasetError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield root, folders, [name for name in names if not name.startswith(".")]
