"""Finds the images and classes of a split folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.base.errors import ConfigError, DatasetError
from tasks.images.images import IMAGE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Samples:
    """The images of one part, sorted by path: `labels[i]` is the class number of `paths[i]`."""

    paths: list[Path]
    labels: list[int]

    @property
    def root(self) -> Path:
        """Return the folder of the dataset: a file is <root>/<part>/<class>/<name>."""
        return self.paths[0].parents[2]


def read_classes(root: Path) -> list[str]:
    """Return the class names of a split dataset, sorted; the position of a name is its number.

    Raises:
        DatasetError: there is no training part, or it has fewer than two classes.
    """
    train = root / "train"
    if not train.is_dir():
        raise DatasetError(f"found no folder {train}: need a split dataset with train/<class>/<image>")
    classes = _folders(train)
    if len(classes) < 2:
        raise DatasetError(f"found {len(classes)} class(es) {classes} in {train}, need at least 2")
    return classes


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def check_num_classes(wanted: int | None, classes: Sequence[str], root: Path) -> None:
    """Hold the number of classes asked for against the ones found.

    Raises:
        ConfigError: they differ.
    """
    if wanted is not None and wanted != len(classes):
        raise ConfigError(f"num_classes is {wanted}, but {root} has {len(classes)} classes: {', '.join(classes)}")


def order_classes(found: Sequence[str], wanted: Sequence[str] | None, root: Path) -> list[str]:
    """Return the classes in the order wanted, which is the order of the model's head.

    Raises:
        ConfigError: the names are not the ones found.
    """
    if wanted is None:
        return list(found)
    if sorted(wanted) != sorted(found):
        missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        raise ConfigError(
            f"class_names do not match {root}: not in the data {missing or 'none'}, not named {extra or 'none'}"
        )
    return list(wanted)


def read_subset(root: Path, part: str, classes: Sequence[str]) -> Samples:
    """Return the images of `root/part`.

    Raises:
        DatasetError: the part holds no image, or a class the training part does not have.
    """
    folder = root / part
    if extra := sorted(set(_folders(folder)) - set(classes)):
        raise DatasetError(f"found class(es) {extra} in {folder} that the training part does not have")
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        files = sorted(p for p in (folder / name).glob("[!.]*") if p.suffix.lower() in IMAGE_SUFFIXES)
        paths += files
        labels += [number] * len(files)
    if not paths:
        raise DatasetError(f"found no image in {folder}, need at least one")
    return Samples(paths, labels)
