"""Images with boxes as a detector reads them, decoded once and kept where memory allows."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.memory import free_memory
from tasks.images.files import in_threads
from tasks.images.images import content_digest, decode_rgb, read_bytes
from tasks.recognition.coco.annotations import AnnotatedImage
from tasks.recognition.detector.squaring import least_side, shrunk

Rgb = NDArray[np.uint8]

_SHARE = 0.25  # of the memory that is free: other runs that start now see the same
_ASPECT_SLACK = 0.02  # tools round sizes


class Scenes:
    """The images of one subset with their boxes, by number.

    Args:
        images: in their order; boxes are in pixels of the size each says.
        size: S, pixels on a side of what the network sees.
        keep: pixels once they are decoded.
    """

    def __init__(self, images: Sequence[AnnotatedImage], size: int, *, keep: bool) -> None:
        self.images, self._size, self._keep = list(images), size, keep
        self.digests: list[str] = []
        self._kept: dict[int, Rgb] = {}
        self.boxes = [_boxes(image) for image in self.images]
        self.labels = [np.array([one.label for one in image.annotations], np.int64) for image in self.images]
        self.crowds = [np.array([one.crowd for one in image.annotations], np.bool_) for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, number: int) -> Rgb:
        """Return the pixels of an image (H, W, 3), shrunk to at most a quarter more than the network sees.

        Raises:
            ImageError: it cannot be used.
            DatasetError: its boxes were drawn on an image of another shape.
        """
        if (kept := self._kept.get(number)) is not None:
            return kept
        path = self.images[number].path
        pixels = self._decoded(number, read_bytes(path))
        if self._keep:
            self._kept[number] = pixels
        return pixels

    def _decoded(self, number: int, data: bytes) -> Rgb:
        image = self.images[number]
        pixels = decode_rgb(data, image.path, min_side=least_side(self._size))
        height, width = pixels.shape[:2]
        if abs(width * image.height / (height * image.width) - 1) > _ASPECT_SLACK:
            raise DatasetError(
                f"found {width}x{height} pixels and boxes for {image.width}x{image.height}, need the same shape: "
                f"{image.path}"
            )
        return shrunk(pixels, self._size)

    def look(self, n_workers: int) -> Iterator[int]:
        """Read every file once, for its digest; yield how many are done.

        Raises:
            ImageError: a file cannot be read.
        """
        for digest in in_threads(_digest, [image.path for image in self.images], n_workers):
            self.digests.append(digest)
            yield len(self.digests)


def _digest(path: Path) -> str:
    return content_digest(read_bytes(path))


def _boxes(image: AnnotatedImage) -> NDArray[np.float32]:
    """Return (M, 4), left, top, right, bottom as shares of the image's longer side."""
    boxes = np.array([one.box for one in image.annotations], np.float32).reshape(-1, 4)
    return boxes / np.float32(max(image.width, image.height))


def fits_memory(n_images: int, size: int) -> bool:
    """Return whether so many decoded images may be kept."""
    side = least_side(size)
    return 3 * side * side * n_images <= _SHARE * free_memory()


def joint_digest(subsets: dict[str, Scenes]) -> str:
    """Return one digest over the images and boxes of some subsets, whatever their folders are called."""
    total = hashlib.blake2b(digest_size=16)
    for name, scenes in subsets.items():
        for number, digest in enumerate(scenes.digests):
            total.update(f"{name} {digest}".encode())
            for part in (scenes.boxes[number], scenes.labels[number], scenes.crowds[number]):
                total.update(part.tobytes())
    return total.hexdigest()
