"""Finds image files by the names that other tools write, whatever separators and suffixes they use."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from tasks.base.errors import DatasetError
from tasks.base.workspace import allowed_path
from tasks.images.images import IMAGE_SUFFIXES
from tasks.splatting.capture.frame_table import IMAGES

_FIRST = (".png", ".jpg", ".jpeg")  # where several files differ by suffix alone
_EXAMPLES = 3


class Needed(Protocol):
    """How many images are enough."""

    @property
    def min_registered(self) -> int: ...
    @property
    def min_registered_share(self) -> float: ...


class _Folders:
    """What lies in the folders below `root`, each read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[Path, dict[str, list[str]]] = {}

    def beside(self, path: Path) -> Path | None:
        """Return the image whose name differs from `path` by suffix or case alone."""
        names = self._names(path.parent)
        found = [name for key in (path.stem, path.name) for name in names.get(key.lower(), ())]
        return path.with_name(found[0]) if found else None

    def _names(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._read:
            names: dict[str, list[str]] = {}
            for name in sorted(os.listdir(folder) if folder.is_dir() else (), key=_rank):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES:
                    names.setdefault(stem.lower(), []).append(name)
            self._read[folder] = names
        return self._read[folder]


def _rank(name: str) -> tuple[int, str]:
    suffix = os.path.splitext(name)[1].lower()
    return (_FIRST.index(suffix) if suffix in _FIRST else len(_FIRST), name)


def parts_of(name: str, source: Path) -> tuple[str, ...]:
    """Return the parts of a relative or absolute path as Windows or Linux write it, without its root.

    Raises:
        DatasetError: it leads out of wherever it begins.
    """
    path: PurePosixPath | PureWindowsPath = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)
    parts = [part for part in path.parts if part not in {path.anchor, "."}]
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise DatasetError(f"{source} names {name}, which leads out of its folder")
    parts = [part for part in os.path.normpath("/".join(parts)).split("/") if part not in {"", "."}]
    if not parts or "\0" in name:
        raise DatasetError(f"{source} names the image {name!r}, need a name")
    return tuple(parts)


def find_named(root: Path, names: Sequence[str], source: Path) -> list[Path | None]:
    """Return the file of each name, None where there is none.

    A name is looked for as it is; then with another suffix; then without its first folders, as it was absolute on
    another machine or relative to a folder above; then in `images_2` and its like for `images`. What two names would
    share is neither's, unless it is exactly what they say.

    Args:
        root: folder that names are relative to; no file outside it is ever returned, links aside.
        names: as another tool wrote them.
        source: its file, for the messages.

    Raises:
        DatasetError: a name leads out of `root`.
        ConfigError: a link leads outside the allowed roots.
    """
    folders = _Folders(Path(os.path.abspath(root)))
    found = [_look(folders, name, source) for name in names]
    claims: dict[Path, set[str]] = {}
    for (path, _), name in zip(found, names, strict=True):
        if path is not None:
            claims.setdefault(path, set()).add(name)
    paths = [path if path and (exact or len(claims[path]) == 1) else None for path, exact in found]
    for path in paths:
        if path is not None:
            allowed_path(path)  # links on the way are followed, but not everywhere
    return paths


def _look(folders: _Folders, name: str, source: Path) -> tuple[Path | None, bool]:
    """Return the file of a name, and whether it is exactly the one that is said."""
    path = Path(os.path.normpath(name))
    inside = path.is_absolute() and path.is_relative_to(folders.root)
    parts = parts_of(str(path.relative_to(folders.root)) if inside else name, source)
    exact = folders.root.joinpath(*parts)
    if exact.is_file() and (inside or not path.is_absolute()):
        return exact, True
    return _near(folders, parts), False


def _near(folders: _Folders, parts: tuple[str, ...]) -> Path | None:
    tails = [parts[first:] for first in range(len(parts))]
    for tail in tails:
        path = folders.root.joinpath(*tail)
        if path.is_file():
            return path
        if other := folders.beside(path):
            return other
    for tail in (tail for tail in tails if tail[0] == IMAGES and len(tail) > 1):
        for folder in smaller_copies(folders.root):
            if other := folders.beside(folder.joinpath(*tail[1:])):
                return other
    return None


def smaller_copies(folder: Path) -> list[Path]:
    """Return `images_2`, `images_4` and so on in a folder, the largest images first."""
    found = [path for path in folder.glob(f"{IMAGES}_*") if path.is_dir() and path.name[len(IMAGES) + 1 :].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[len(IMAGES) + 1 :]))


def check_there(total: int, n_missing: int, sentence: str, needed: Needed) -> None:
    """Refuse cameras of which too many have no image.

    Args:
        total: cameras.
        n_missing: those without an image, at least one.
        sentence: which is missing, and where.
        needed: how many are enough.

    Raises:
        DatasetError: fewer than `min_registered` are there, or a smaller share than `min_registered_share`.
    """
    there = total - n_missing
    if there < needed.min_registered:
        raise DatasetError(
            f"{sentence}; {there} of {total} images are there, need at least {needed.min_registered} (min_registered)"
        )
    if there < needed.min_registered_share * total:
        raise DatasetError(
            f"{sentence}; {there} of {total} images are there, need at least {needed.min_registered_share:.0%} "
            "(min_registered_share)"
        )


def left_out(total: int, missing: Sequence[str], source: Path) -> str:
    """Return the sentence that says which cameras are left out for want of their images."""
    shown = ", ".join(missing[:_EXAMPLES]) + (", ..." if len(missing) > _EXAMPLES else "")
    return f"{len(missing)} of {total} images are not there and left out: {shown} ({source})"
