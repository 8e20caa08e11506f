"""A file or folder on its way to another machine: parts with their digests, and a manifest of them."""

import hashlib
import hmac
import json
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deployments.inbox.settling import is_temporary, why_not
from tasks.base.errors import DatasetError
from tasks.base.outside import open_file

PART_BYTES = 8 << 20
"""MLflow's server refuses files of more than ten megabytes."""

MANIFEST = "upload.json"
MANIFEST_BYTES = 10 << 20
_MAX_PARTS = 130_000  # whose digests are in the manifest: a terabyte


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an upload consists of.

    Args:
        flow: that it is for.
        name: of the file or folder.
        kind: a folder is sent as a TAR.
        owner: user@host.
        parameters: of the flow, nested.
        n_bytes: of all parts.
        parts: SHA-256 of each, in hexadecimal digits; all but the last have `PART_BYTES`.
    """

    flow: str
    name: str
    kind: Literal["file", "folder"]
    owner: str
    parameters: dict[str, Any]
    n_bytes: int
    parts: list[str]

    def as_bytes(self) -> bytes:
        """Return it as JSON; the same for the same content."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @property
    def key(self) -> str:
        """Return what tells it from all others: the same file for the same run has the same."""
        return hashlib.sha256(self.as_bytes()).hexdigest()

    def proof(self, password: str | None) -> str:
        """Return what shows that its sender knows the yard's password; empty without one."""
        return hmac.new(password.encode(), self.as_bytes(), hashlib.sha256).hexdigest() if password else ""

    def size_of(self, number: int) -> int:
        """Return the bytes of a part."""
        return PART_BYTES if number < len(self.parts) - 1 else self.n_bytes - PART_BYTES * (len(self.parts) - 1)

    def file_of(self, number: int) -> str:
        """Return the name of the file of a part."""
        return f"{number:06d}.{self.parts[number]}"


def read_manifest(data: bytes) -> Manifest:
    """Return a manifest that anybody may have sent.

    Raises:
        DatasetError: it is none, or names what is no plain name.
    """
    try:
        found = Manifest(**json.loads(data))
        texts = (found.flow, found.name, found.owner, *found.parts)
        well = all(isinstance(text, str) for text in texts) and isinstance(found.parameters, dict)
        well = well and found.kind in {"file", "folder"} and isinstance(found.n_bytes, int)
        well = well and 0 < len(found.parts) <= _MAX_PARTS and all(re.fullmatch("[0-9a-f]{64}", p) for p in found.parts)
        well = well and PART_BYTES * (len(found.parts) - 1) < found.n_bytes <= PART_BYTES * len(found.parts)
    except (ValueError, TypeError, RecursionError) as exc:
        raise DatasetError(f"found no manifest of an upload: {exc}") from exc
    if not well:
        raise DatasetError("found no manifest of an upload, need names, sizes and digests that fit")
    if (
        not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,200}", found.name)
        or found.name.startswith(".")
        or is_temporary(found.name)
    ):
        raise DatasetError(f"found the name {found.name[:300]!r}, need a plain one that begins with no dot")
    return found


def describe(path: Path, *, flow: str, owner: str, parameters: dict[str, Any]) -> Manifest:
    """Return the manifest of a file or folder, all of which is read for it.

    Raises:
        DatasetError: it is empty, cannot be read, or holds links that lead out of it, devices or pipes.
    """
    if faults := why_not(path):
        name, why = next(iter(faults.items()))
        raise DatasetError(f"{path} holds {name}: {why}")
    kind: Literal["file", "folder"] = "folder" if path.is_dir() else "file"
    if kind == "file" and not path.stat().st_size:
        raise DatasetError(f"is empty: {path}")
    parts, n_bytes = [], 0
    for part in cut(path):
        parts.append(hashlib.sha256(part).hexdigest())
        n_bytes += len(part)
        if len(parts) > _MAX_PARTS:
            raise DatasetError(f"found more than {_MAX_PARTS * PART_BYTES} bytes, need less: {path}")
    return Manifest(flow, path.name, kind, owner, parameters, n_bytes, parts)


def cut(path: Path) -> Iterator[bytes]:
    """Yield the parts of a file, or of the TAR of a folder; the same bytes each time, as long as nothing changes.

    Raises:
        DatasetError: something cannot be read, or changes meanwhile.
    """
    waiting = bytearray()
    for piece in _tar(path) if path.is_dir() else _pieces(path):
        waiting += piece
        while len(waiting) >= PART_BYTES:
            yield bytes(waiting[:PART_BYTES])
            del waiting[:PART_BYTES]
    if waiting:
        yield bytes(waiting)


def _pieces(path: Path) -> Iterator[bytes]:
    with open_file(path, DatasetError) as file:
        while piece := file.read(1 << 20):
            yield piece


def _tar(folder: Path) -> Iterator[bytes]:
    """Yield a TAR without times, owners and modes: those would make another one of the same files."""
    for path in sorted(folder.rglob("*")):
        info = tarfile.TarInfo(str(path.relative_to(folder)))
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
        elif stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        else:
            info.size = status.st_size
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.isreg():
            yield from _content(path, info.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(path: Path, size: int) -> Iterator[bytes]:
    n_read = 0
    for piece in _pieces(path):
        n_read += len(piece)
        yield piece
    if n_read != size:
        raise DatasetError(f"found {n_read} bytes where there were {size}, need a file that nobody writes: {path}")
    yield bytes(-size % tarfile.BLOCKSIZE)
