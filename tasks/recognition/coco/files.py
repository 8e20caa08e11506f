"""Finds the image files that annotations speak of, and reads their size."""

import os
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from tasks.base.errors import DatasetError, ImageError
from tasks.base.outside import open_file, walk
from tasks.images.images import IMAGE_SUFFIXES, LARGEST_BYTES

_ORIENTATION, _TURNED = 0x0112, range(5, 9)  # EXIF: stored lying on the side
_BAD_HEADER = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError)


class ImageFiles:
    """The images below a folder; nothing outside it is ever opened, whatever an annotation file says.

    Args:
        root: folder.

    Raises:
        DatasetError: a folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = sorted(
            Path(folder, name)
            for folder, _, names in walk(root)
            for name in names
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        )
        self._known = set(self.paths)
        self._by_name: dict[str, list[Path]] = {}
        for path in self.paths:
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, name: str, said_in: Path) -> Path:
        """Return the file that an annotation file means by a name.

        Taken is the file of that path beside the annotations, in a folder `images` there or one above, or below the
        root; else, as Label Studio names files of its own server, the only file of that last name.

        Raises:
            DatasetError: there is none, or several could be meant.
        """
        clean = PurePosixPath(name.replace("\\", "/"))
        folder = said_in.parent
        for start in (folder, folder / "images", folder.parent, folder.parent / "images", self.root):
            path = Path(os.path.normpath(start / clean))
            if path in self._known:
                return path
        same = self._by_name.get(clean.name, [])
        if ends := [path for path in same if PurePosixPath(path.as_posix()).match(str(clean).lstrip("/."))]:
            same = ends
        if len(same) != 1:
            found = "no image" if not same else f"{len(same)} images"
            raise DatasetError(f"found {found} {name!r} below {self.root}, need one: {said_in}")
        return same[0]


def stored_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, turned upright, from its header.

    Raises:
        ImageError: the file cannot be read or is no image.
    """
    with open_file(path, ImageError, LARGEST_BYTES) as file:
        try:
            with Image.open(file) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TURNED
        except (UnidentifiedImageError, Image.DecompressionBombError, *_BAD_HEADER) as exc:
            raise ImageError(f"not an image, or its header is damaged ({type(exc).__name__}): {path}") from exc
    return (height, width) if turned else (width, height)
