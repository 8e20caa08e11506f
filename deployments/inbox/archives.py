"""Unpacks archives that anybody may have made: nothing leaves the folder, and nothing grows without bounds."""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal

from tasks.base.errors import DatasetError, StorageError
from tasks.base.outside import open_file
from tasks.base.workspace import staged

SUFFIXES = (
    ".zip",
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),
    *(".tar.zst", ".tzst"),
)

_CHUNK = 1 << 20
_LONGEST_READ = 16 << 20
"""Of a header: tarfile takes into memory what a header says is its length."""

_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error),
    *(EOFError, OSError, ValueError, OverflowError, RuntimeError, NotImplementedError, MemoryError),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may unpack to.

    Args:
        n_entries: files, folders and links.
        n_bytes: of all files.
        ratio: bytes unpacked per byte of the archive, beyond the first `free_bytes`.
        free_bytes: which need no ratio: a few images of one colour compress a thousand times.
        depth: folders in each other.
        name_bytes: of one name.
        path_bytes: of a whole path.
        left_bytes: of the disk, which must stay free.
    """

    n_entries: int = 500_000
    n_bytes: int = 256 << 30
    ratio: int = 200
    free_bytes: int = 256 << 20
    depth: int = 32
    name_bytes: int = 255
    path_bytes: int = 1024
    left_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    size: int
    target: str  # of a link
    open: Callable[[], IO[bytes]]


@dataclass(slots=True)
class _Unpacking:
    """What has been unpacked so far, held against the limits."""

    root: Path
    packed: int  # bytes
    limits: Limits
    n_entries: int = 0
    n_bytes: int = 0
    seen: dict[str, tuple[str, bool]] = field(default_factory=dict)  # path without case -> as it is, is a folder
    whole: set[str] = field(default_factory=set)  # those with an entry of their own
    links: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, entry: _Entry) -> None:
        self.n_entries += 1
        if self.n_entries > self.limits.n_entries:
            raise DatasetError(f"holds more than {self.limits.n_entries} files and folders")
        path = self._checked(entry.name)
        if path == PurePosixPath("."):
            return
        self._remember(path, is_folder=entry.kind == "folder")
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        match entry.kind:
            case "folder":
                place.mkdir(exist_ok=True)
            case "file":
                self._write(entry, place)
            case "hardlink":
                self._link(entry, place)
            case "symlink":  # last of all: nothing is written through one
                self.links.append((place, entry.target))
            case _:
                raise DatasetError(f"holds a device, a pipe or something else that is no file: {entry.name!r}")

    def _checked(self, name: str) -> PurePosixPath:
        """Return the path of an entry below the root."""
        path = PurePosixPath(name)
        if not name or any(unicodedata.category(char) == "Cc" for char in name) or "\\" in name:
            raise DatasetError(f"holds a name with control characters or backslashes: {name!r}")
        if path.is_absolute() or ".." in path.parts:
            raise DatasetError(f"holds a name that leads out of the archive: {name!r}")
        encoded = [part.encode("utf-8", "surrogateescape") for part in path.parts]
        if len(encoded) > self.limits.depth:
            raise DatasetError(f"holds folders nested deeper than {self.limits.depth}: {name[:100]!r} ...")
        if any(len(part) > self.limits.name_bytes for part in encoded) or len(name) > self.limits.path_bytes:
            raise DatasetError(f"holds a name that is too long: {name[:100]!r} ...")
        return path

    def _remember(self, path: PurePosixPath, *, is_folder: bool) -> None:
        """Refuse two entries that are one where names have no case, and what is a file here and a folder there."""
        for above in (*reversed(path.parents), path):
            text = str(above)
            folder_too = above != path or is_folder
            key = unicodedata.normalize("NFC", text).casefold()
            known, was_folder = self.seen.setdefault(key, (text, folder_too))
            if known != text:
                raise DatasetError(f"holds two names that differ by case alone: {known!r} and {text!r}")
            if above == path and not is_folder and key in self.whole or was_folder != folder_too:
                raise DatasetError(f"holds two entries of one name: {text!r}")
            if above == path:
                self.whole.add(key)

    def _count(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        if self.n_bytes > self.limits.n_bytes:
            raise DatasetError(f"unpacks to more than {self.limits.n_bytes} bytes")
        if self.n_bytes > self.limits.free_bytes + self.limits.ratio * self.packed:
            raise DatasetError(f"unpacks to more than {self.limits.ratio} times its {self.packed} bytes")

    def _write(self, entry: _Entry, place: Path) -> None:
        before = self.n_bytes
        with entry.open() as source, place.open("xb") as target:
            while chunk := source.read(_CHUNK):
                self._count(len(chunk))
                if self.n_bytes - before > entry.size:
                    raise DatasetError(f"holds more of {entry.name!r} than the {entry.size} bytes it says")
                if shutil.disk_usage(self.root).free < self.limits.left_bytes:
                    raise StorageError(f"disk full while unpacking: less than {self.limits.left_bytes} bytes are left")
                target.write(chunk)
        if self.n_bytes - before != entry.size:
            raise DatasetError(f"is cut off in {entry.name!r}")

    def _link(self, entry: _Entry, place: Path) -> None:
        source = self.root / self._checked(entry.target)
        if not source.is_file() or source.is_symlink():
            raise DatasetError(f"holds a link to what is no file before it: {entry.name!r} -> {entry.target!r}")
        os.link(source, place)

    def finish(self) -> None:
        """Make the links, each of which must lead to something within the root."""
        for place, target in self.links:
            if PurePosixPath(target).is_absolute():
                raise DatasetError(f"holds a link that leads out of the archive: {place.name!r} -> {target!r}")
            place.symlink_to(target)
        for place, target in self.links:
            check_link(place, self.root, target)


def check_link(place: Path, root: Path, target: str) -> None:
    """Refuse a symbolic link that does not lead to something within a folder.

    Raises:
        DatasetError: it leads elsewhere, to nothing, or in a circle.
    """
    try:
        leads_to = place.resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise DatasetError(f"holds a link that leads nowhere: {place.name!r} -> {target!r}") from exc
    if not leads_to.is_relative_to(root.resolve()):
        raise DatasetError(f"holds a link that leads out of it: {place.name!r} -> {target!r}")


def is_archive(name: str) -> bool:
    """Return whether a file's name is one of an archive."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack an archive into a folder, whole or not at all.

    Args:
        archive: .zip, .tar, or a .tar that gzip, bzip2 or xz compressed.
        target: made; an earlier one is replaced.
        limits: what it may unpack to.

    Raises:
        DatasetError: it is damaged, encrypted, larger than the limits, or holds what could do harm; says which.
        StorageError: the disk has no room for it.
    """
    limits = limits or Limits()
    with open_file(archive, DatasetError) as file, staged(target) as root:
        unpacking = _Unpacking(root, os.fstat(file.fileno()).st_size, limits)
        try:
            for entry in _entries(file, archive.name, limits):
                unpacking.add(entry)
            unpacking.finish()
        except DatasetError as exc:
            raise DatasetError(f"{archive.name} {exc}") from exc
        except OSError as exc:
            if exc.errno is None:  # of a decompressor; the file system's have a number
                raise DatasetError(f"{archive.name} is damaged: {exc}") from exc
            raise
        except _DAMAGE as exc:
            raise DatasetError(f"{archive.name} is damaged: {exc or type(exc).__name__}") from exc
        if not unpacking.n_bytes:
            raise DatasetError(f"{archive.name} is empty")


def _entries(file: BinaryIO, name: str, limits: Limits) -> Iterator[_Entry]:
    suffix = next(suffix for suffix in reversed(SUFFIXES) if name.lower().endswith(suffix))
    match suffix:
        case ".zip":
            yield from _of_zip(file, limits)
        case ".tar":
            yield from _of_tar(file)
        case ".tar.gz" | ".tgz":
            yield from _of_tar(gzip.open(file))
        case ".tar.bz2" | ".tbz2":
            yield from _of_tar(bz2.open(file))
        case ".tar.xz" | ".txz":
            yield from _of_tar(lzma.open(file))
        case _:
            raise DatasetError("is compressed by zstd, which this Python cannot read: need .tar.gz, .tar.xz or .zip")


def _of_zip(file: BinaryIO, limits: Limits) -> Iterator[_Entry]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if len(infos) > limits.n_entries:
            raise DatasetError(f"holds more than {limits.n_entries} files and folders")
        for info in infos:
            if info.flag_bits & 1:
                raise DatasetError(f"is encrypted: {info.filename!r}")
            kind = stat.S_IFMT(info.external_attr >> 16)
            target = ""
            if kind == stat.S_IFLNK:
                target = os.fsdecode(archive.open(info).read(limits.path_bytes + 1))
            yield _Entry(
                name=info.filename,
                kind="folder" if info.is_dir() else _KINDS.get(kind, "file" if kind == 0 else "other"),
                size=info.file_size,
                target=target,
                open=partial(archive.open, info),
            )


_KINDS: dict[int, Literal["file", "folder", "symlink"]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
}


def _of_tar(file: Any) -> Iterator[_Entry]:
    with tarfile.open(fileobj=_Bounded(file), mode="r:") as archive:  # type: ignore[call-overload]
        for info in archive:
            kind: Any = next((kind for kind, is_kind in _tests(info) if is_kind), "other")
            yield _Entry(
                name=info.name,
                kind=kind,
                size=info.size,
                target=info.linkname,
                open=partial(_extracted, archive, info),
            )
            archive.members = []  # else it remembers each of them


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(info)
    assert content is not None, "of a file there is one"
    return content


def _tests(info: tarfile.TarInfo) -> tuple[tuple[str, bool], ...]:
    return (
        ("folder", info.isdir()),
        ("symlink", info.issym()),
        ("hardlink", info.islnk()),
        ("file", info.isfile()),
    )


class _Bounded:
    """A file for tarfile that refuses to be read in pieces which no honest header needs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise DatasetError(f"holds a header of {size} bytes, need at most {_LONGEST_READ}")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
