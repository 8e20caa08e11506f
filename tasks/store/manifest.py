"""Says of what a folder consists: each file with its digest, and where its bytes lie in the store."""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Self

from tasks.base.errors import StorageError

_FORM = 1
_NAME = re.compile(r"(?P<writer>[A-Za-z0-9-]{1,64})\.(?P<clock>\d{1,12})\.(?P<digest>[0-9a-f]{64})\.json\.gz")
MOST_BYTES = 1 << 30
"""Of a manifest once unpacked; ten million files have less."""


@dataclass(frozen=True, slots=True)
class Span:
    """Some bytes of an object.

    Args:
        name: digest of the object, SHA-256 in hexadecimal.
        start, length: bytes.
    """

    name: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of a folder, or, without a digest, one that was removed.

    Args:
        clock: when it was written or removed, in a count that grows along every chain of hosts.
        writer: who wrote it.
        digest: SHA-256 of its content in hexadecimal.
        size: bytes.
        executable: it may be run.
        linked: it is one of several names of the same file.
        spans: where its content lies, in order.
    """

    clock: int
    writer: str
    digest: str = ""
    size: int = 0
    executable: bool = False
    linked: bool = False
    spans: tuple[Span, ...] = field(default=(), repr=False)

    @property
    def order(self) -> tuple[int, str]:
        """Return what is larger for the later one of two."""
        return self.clock, self.writer


Files = dict[str, File]
"""By path below the folder, with slashes."""


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a manifest: whose it is, how late, and the digest of its bytes."""

    writer: str
    clock: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what a name says, None for one of another kind."""
        found = _NAME.fullmatch(text)
        return cls(found["writer"], int(found["clock"]), found["digest"]) if found else None

    def __str__(self) -> str:
        """Return the name as it stands in the store."""
        return f"{self.writer}.{self.clock:06}.{self.digest}.json.gz"


def encode(files: Mapping[str, File]) -> bytes:
    """Return a manifest as bytes: the same files give the same bytes."""
    rows = {
        path: [
            *(file.clock, file.writer, file.digest, file.size, file.executable, file.linked),
            [[span.name, span.start, span.length] for span in file.spans],
        ]
        for path, file in sorted(files.items())
    }
    text = json.dumps({"form": _FORM, "files": rows}, separators=(",", ":"))
    return gzip.compress(text.encode("utf-8", "surrogateescape"), compresslevel=3, mtime=0)


def decode(data: bytes, name: str) -> Files:
    """Return the files of a manifest.

    Args:
        data: of it.
        name: for messages.

    Raises:
        StorageError: it is none, or of a newer version, or names a place outside the folder.
    """
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        found = json.loads(text.decode("utf-8", "surrogateescape"))
        if found["form"] != _FORM:
            raise ValueError(f"form {found['form']}, need {_FORM}")
        return {_inside(path): _file(row) for path, row in found["files"].items()}
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError) as exc:
        raise StorageError(f"cannot read the manifest {name} in MLflow's artifact store: {exc}") from exc


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not pure.parts or str(pure) != path:
        raise ValueError(f"found the path {path!r}, need one below its folder")
    return path


def _file(row: list[Any]) -> File:
    clock, writer, digest, size, executable, linked, spans = row
    if digest and not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"found the digest {digest!r}")
    placed = tuple(_span(*span) for span in spans)
    if sum(span.length for span in placed) != (size if digest else 0):
        raise ValueError(f"found spans of other than {size} bytes")
    return File(int(clock), str(writer), str(digest), int(size), bool(executable), bool(linked), placed)


def _span(name: str, start: int, length: int) -> Span:
    if not re.fullmatch("[0-9a-f]{64}", name) or start < 0 or length < 0:
        raise ValueError(f"found the span {name!r}, {start}, {length}")
    return Span(name, int(start), int(length))


def merged(manifests: Iterable[Mapping[str, File]]) -> Files:
    """Return the latest word of several manifests on each file, removed ones included."""
    latest: Files = {}
    for files in manifests:
        for path, file in files.items():
            if path not in latest or latest[path].order < file.order:
                latest[path] = file
    return latest


def digest_bytes(data: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of(files: Mapping[str, File]) -> str:
    """Return the digest of a folder's content: paths and content alone, wherever its bytes lie."""
    lines = (f"{file.digest} {int(file.executable)} {path}\n" for path, file in sorted(files.items()) if file.digest)
    whole = hashlib.sha256()
    for line in lines:
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
