"""Reads the rendered views of a data set: which part each shows, and from where."""

import csv
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import TABLE_BYTES, read_json, read_text
from tasks.images.files import n_cores, one_cv2_thread
from tasks.images.images import content_digest, read_bytes, read_rgb

Use = Literal["fit", "calibrate"]
PARTS, POSES = "parts.json", "poses.csv"
UNKNOWN = "unknown"
"""What is answered to an image of no part; no part may have that name."""
_COLUMNS = ("path", "part", "w", "x", "y", "z")


@dataclass(frozen=True, slots=True)
class Views:
    """Some views of a data set, in the order of its table."""

    root: Path  # the data set
    paths: list[str]  # below the root
    labels: NDArray[np.int64]  # (N,) position in the names of the data set
    rotations: NDArray[np.float32]  # (N, 4) quaternion w, x, y, z of length 1: part frame -> camera frame

    def __len__(self) -> int:
        return len(self.paths)

    def chosen(self, keep: NDArray[Any]) -> "Views":
        """Return some of the views, by a mask or by their places."""
        places = np.arange(len(self))[keep]
        paths = [self.paths[place] for place in places]
        return Views(self.root, paths, self.labels[places], self.rotations[places])

    def read(self, place: int) -> NDArray[np.uint8]:
        """Return a view as (H, W, 3) RGB.

        Raises:
            ImageError: its file cannot be used.
        """
        return read_rgb(self.root / self.paths[place])


@dataclass(frozen=True, slots=True)
class ViewSet:
    """A rendered data set, as far as an index needs it."""

    root: Path
    parts: list[str]  # sorted; the position is the class number
    distractors: dict[str, Use]  # shapes that are no part
    views: Views  # all of them; the labels count the parts, then the distractors

    @property
    def names(self) -> list[str]:
        """Return what the labels count: the parts, then the distractors."""
        return [*self.parts, *self.distractors]

    def subset(self, name: Literal["train", "val", "test"]) -> Views:
        """Return the views of the parts that are trained on, chosen by, or graded on.

        Raises:
            DatasetError: a part has none.
        """
        found = self._below(f"views/{name}/")
        if missing := [part for number, part in enumerate(self.parts) if not np.any(found.labels == number)]:
            raise DatasetError(
                f"found no view of {', '.join(missing)} in {self.root}/views/{name}, need some of each part"
            )
        return found

    def distractor_views(self, use: Use) -> Views:
        """Return the views of the distractors to fit on, or to calibrate with; there may be none."""
        wanted = [number for number, name in enumerate(self.names) if self.distractors.get(name) == use]
        found = self._below("views/distractors/")
        return found.chosen(np.isin(found.labels, wanted))

    def _below(self, folder: str) -> Views:
        return self.views.chosen(np.array([path.startswith(folder) for path in self.views.paths], dtype=bool))


def read_view_set(root: Path) -> ViewSet:
    """Return what a folder of rendered views holds.

    Args:
        root: holds parts.json and views/poses.csv.

    Raises:
        DatasetError: it does not, they do not fit together, or a path leads outside.
    """
    described = read_json(root / PARTS, DatasetError)
    if not isinstance(described, dict):
        raise DatasetError(f"found a {type(described).__name__}, need the parts of a data set: {root / PARTS}")
    parts = [_text(row, "name", root) for row in _rows(described, "parts", root)]
    distractors = {_text(row, "name", root): _use(row, root) for row in _rows(described, "distractors", root)}
    names = [*parts, *distractors]
    if not parts or len(set(names)) != len(names) or parts != sorted(parts):
        raise DatasetError(
            f"found the names {names[:10]}, need at least one part, sorted, each name once: {root / PARTS}"
        )
    if UNKNOWN in parts:
        raise DatasetError(f"found a part called {UNKNOWN!r}, which is an answer of its own: {root / PARTS}")
    return ViewSet(root, parts, distractors, _read_poses(root, root / "views" / POSES, names))


def _rows(described: dict[str, Any], key: str, root: Path) -> list[Any]:
    rows = described.get(key, [])
    if not isinstance(rows, list):
        raise DatasetError(f"found a {type(rows).__name__} under {key!r}, need a list: {root / PARTS}")
    return rows


def _text(row: Any, key: str, root: Path) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value:
        raise DatasetError(f"found {value!r} as {key!r} of a part, need a text: {root / PARTS}")
    return value


def _use(row: Any, root: Path) -> Use:
    match _text(row, "use", root):
        case "fit":
            return "fit"
        case "calibrate":
            return "calibrate"
        case other:
            raise DatasetError(f"found the use {other!r} of a distractor, need fit or calibrate: {root / PARTS}")


def read_new_views(root: Path) -> tuple[list[str], Views]:
    """Return what a folder of rendered views of some parts holds: their names, sorted, and the views.

    Args:
        root: holds poses.csv and the views it names.

    Raises:
        DatasetError: it does not, or a path leads outside.
    """
    path = root / POSES
    names = sorted({row["part"] or "" for _, row in _rows_of(path)})
    if not names or "" in names:
        raise DatasetError(f"found no view, or one without the name of its part, need views of parts: {path}")
    return names, _read_poses(root, path, names)


def _rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table of poses with the numbers of their lines."""
    table = csv.DictReader(read_text(path, DatasetError, TABLE_BYTES).splitlines())
    if missing := sorted(set(_COLUMNS) - set(table.fieldnames or ())):
        raise DatasetError(f"found no column {', '.join(missing)}, need {', '.join(_COLUMNS)}: {path}")
    yield from enumerate(table, 2)


def _read_poses(root: Path, path: Path, names: Sequence[str]) -> Views:
    numbers = {name: number for number, name in enumerate(names)}
    paths: list[str] = []
    labels: list[int] = []
    rotations: list[tuple[float, ...]] = []
    for line, row in _rows_of(path):
        paths.append(_inside(row["path"], path, line))
        if row["part"] not in numbers:
            raise DatasetError(f"found the part {row['part']!r} in line {line}, need one of {len(names)} known: {path}")
        labels.append(numbers[row["part"]])
        rotations.append(_quaternion(row, path, line))
    return Views(root, paths, np.array(labels, dtype=np.int64), np.array(rotations, dtype=np.float32).reshape(-1, 4))


def _inside(name: str | None, path: Path, line: int) -> str:
    given = PurePosixPath(name or "")
    if not name or given.is_absolute() or ".." in given.parts:
        raise DatasetError(f"found the path {name!r} in line {line}, need one below the data set: {path}")
    return given.as_posix()


def _quaternion(row: dict[str, str], path: Path, line: int) -> tuple[float, ...]:
    try:
        values = np.array([float(row[key]) for key in "wxyz"])
    except (TypeError, ValueError) as exc:
        raise DatasetError(f"found no rotation in line {line}, need numbers w, x, y, z: {path}") from exc
    length = float(np.linalg.norm(values))
    if not abs(length - 1) < 1e-3:
        raise DatasetError(f"found a quaternion of length {length:g} in line {line}, need 1: {path}")
    return tuple(float(value) for value in values / length)


def evenly(labels: NDArray[np.int64], per_class: int) -> NDArray[np.int64]:
    """Return the places of at most so many views of each class, spread evenly over their order."""
    kept = []
    for number in np.unique(labels):
        places = np.flatnonzero(labels == number)
        n = min(per_class, len(places))
        kept.append(places[np.arange(n) * len(places) // n])
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)


def file_digests(views: Views, look: Callable[[], None]) -> list[str]:
    """Return the digest of the content of each file, in the order of the views.

    Args:
        views: whose files are read.
        look: called after each file; may raise, to end early.

    Raises:
        ImageError: a file cannot be read.
    """
    found = []
    with one_cv2_thread(), ThreadPoolExecutor(n_cores()) as pool:
        for digest in pool.map(lambda path: content_digest(read_bytes(views.root / path)), views.paths):
            look()
            found.append(digest)
    return found


def joint_digest(digests: Collection[str]) -> str:
    """Return one digest over the digests of files, whatever their order."""
    return hashlib.blake2b("".join(sorted(digests)).encode(), digest_size=16).hexdigest()
