"""Tells from the names of folders and files whether images are for training, validation or testing."""

from pathlib import Path

from tasks.recognition.coco.annotations import Subset

_WORDS: dict[str, Subset] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def subset_of(path: Path) -> Subset | None:
    """Return the subset that a relative path speaks of, in a folder's name or as a word of the file's; None: of none.

    instances_val2017.json, valid/_annotations.coco.json and images/val/a.jpg are of the part val; of images only the
    folders count, since their own names may be anything.
    """
    for folder in path.parts[:-1]:
        if folder.casefold().rstrip("0123456789") in _WORDS:
            return _WORDS[folder.casefold().rstrip("0123456789")]
    if path.suffix != ".json":
        return None
    words = path.stem.casefold().replace("-", "_").replace(".", "_").split("_")
    return next((_WORDS[word.rstrip("0123456789")] for word in words if word.rstrip("0123456789") in _WORDS), None)
