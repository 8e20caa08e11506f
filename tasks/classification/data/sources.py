"""Finds out how a folder of images is laid out: class folders, or subsets of class folders."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.outside import TABLE_BYTES, read_bytes
from tasks.classification.params import Part
from tasks.images.files import find_images, subfolders

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image as found: where, of which class and, when the data came split, in which part."""

    path: Path
    relative: str  # below the source folder, for reports and for group_by
    label: str
    part: Part | None
    inside: tuple[str, ...]  # the way from the folder of its class


@dataclass(frozen=True, slots=True)
class Sources:
    """All images of a folder of classes."""

    images: list[SourceImage]
    classes: list[str]
    already_split: bool
    n_ignored: int  # files that are no images by their suffix, or lie outside the folders of the classes


def find_sources(source: Path | Mapping[Part, Path]) -> Sources:
    """Return the images of `source`.

    Args:
        source: a folder of classes; a folder with `train` and `val` (or `valid`), and perhaps `test`, that
            hold the classes; or the folder of each part.

    Raises:
        DatasetError: there is no folder of a class, only one class, or not the same ones in every part.
    """
    if isinstance(source, Path):
        parts = _find_parts(source)
        if parts is None:
            return _of_classes(source)
    else:
        parts = dict(source)
        if missing := {"train", "val"} - set(parts):
            raise DatasetError(f"found folders for {sorted(parts)}, need also {sorted(missing)}: {source}")
    found: dict[Part, Sources] = {}
    for part in PARTS:
        if part in parts:
            base = source if isinstance(source, Path) else parts[part]
            found[part] = _of_classes(parts[part], base, part)
    for part, sources in found.items():
        if difference := sorted(set(found["train"].classes) ^ set(sources.classes)):
            raise DatasetError(
                f"{parts['train']} and {parts[part]} differ in the classes {difference}, need the same in each part"
            )
    return Sources(
        images=[image for sources in found.values() for image in sources.images],
        classes=found["train"].classes,
        already_split=True,
        n_ignored=sum(sources.n_ignored for sources in found.values()),
    )


def _find_parts(source: Path) -> dict[Part, Path] | None:
    """Return the folder of each part, or None where the subfolders are classes."""
    folders = {path.name: path for path in subfolders(source)}
    if "train" not in folders or not folders.keys() & {"val", "valid", "test"}:
        return None  # "train" alone may well be a class, beside "bus" and "car"
    if {"val", "valid"} <= folders.keys():
        raise DatasetError(f"found both val and valid, need one of them: {source}")
    parts: dict[Part, Path] = {"train": folders["train"]}
    if "val" in folders or "valid" in folders:
        parts["val"] = folders["val"] if "val" in folders else folders["valid"]
    elif folders.keys() == {"train", "test"}:
        raise DatasetError(f"found train and test, need also val (or valid): {source}")
    else:
        return None
    if "test" in folders:
        parts["test"] = folders["test"]
    return parts


def _of_classes(folder: Path, base: Path | None = None, part: Part | None = None) -> Sources:
    """Return the images of a folder of classes, their `relative` counted from `base`."""
    classes = subfolders(folder)
    n_outside = sum(1 for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    if not classes:
        found = f"{n_outside} file(s) but no folder" if n_outside else "an empty folder"
        raise DatasetError(f"found {found}, need one folder of images per class: {folder}")
    if len(classes) < 2:
        raise DatasetError(f"found one class, {classes[0].name!r}, need at least 2 in {folder}")
    images: list[SourceImage] = []
    for path in classes:
        paths, n_other = find_images(path)
        n_outside += n_other
        if not paths:
            raise DatasetError(f"class {path.name!r} has 0 images, need at least 1 in {path}")
        images += [
            SourceImage(p, p.relative_to(base or folder).as_posix(), path.name, part, p.relative_to(path).parts)
            for p in paths
        ]
    return Sources(images, [path.name for path in classes], part is not None, n_outside)


def group_names(images: Sequence[SourceImage], group_by: str) -> dict[Path, str]:
    """Return the recording each image is from.

    Args:
        group_by: a regular expression found in the file's name: its first group, else the whole match, is the
            recording. Or a CSV file with the columns path (below the source folder, absolute, or just the
            name) and group.

    Raises:
        ConfigError: no such file, not its columns, or no regular expression.
        DatasetError: it says nothing about some image, which could then leak from one side to the other.
    """
    find = _from_csv(Path(group_by)) if group_by.lower().endswith(".csv") else _from_pattern(group_by)
    found = {image.path: find(image) for image in images}
    without = [image.relative for image in images if found[image.path] is None]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(images)} image(s) have no group by {group_by!r}, need one for each: "
            f"{', '.join(without[:5])}{' ...' if len(without) > 5 else ''}"
        )
    return {path: group for path, group in found.items() if group is not None}


def _from_pattern(text: str) -> Callable[[SourceImage], str | None]:
    try:
        pattern = re.compile(text)
    except re.error as exc:
        raise ConfigError(f"group_by {text!r} is no regular expression: {exc}") from exc

    def find(image: SourceImage) -> str | None:
        match = pattern.search(image.path.name)
        if match is None:
            return None
        first: str | None = match.group(1) if pattern.groups else None
        return match.group(0) if first is None else first

    return find


def _from_csv(path: Path) -> Callable[[SourceImage], str | None]:
    text = read_bytes(path, ConfigError, TABLE_BYTES).decode("utf-8-sig", "surrogateescape")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as exc:
        raise ConfigError(f"is no CSV file ({exc}), need the columns path and group: {path}") from exc
    if not rows or not {"path", "group"} <= set(rows[0]):
        found = sorted(str(name) for name in rows[0]) if rows else "no rows"
        raise ConfigError(f"found {found}, need the columns path and group: {path}")
    groups = {row["path"]: row["group"] for row in rows if row["group"]}

    def find(image: SourceImage) -> str | None:
        names = (image.relative, str(image.path), image.path.name)
        return next((groups[name] for name in names if name in groups), None)

    return find
