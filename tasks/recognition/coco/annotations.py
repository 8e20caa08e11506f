"""Images with the boxes of the parts on them, whatever file they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Subset = Literal["train", "val", "test"]
Corners = tuple[float, float, float, float]
"""Left, top, right, bottom of a box."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One part on an image."""

    label: int  # class number
    box: Corners  # pixels of the image, left < right and top < bottom
    area: float  # of the visible part, square pixels
    crowd: bool = False  # a region of many that are not told apart; neither trained on nor graded
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys of its COCO entry: segmentation, pose, score


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image's file with its annotations."""

    path: Path
    width: int  # pixels, of the image that the boxes were drawn on
    height: int
    annotations: tuple[Annotation, ...] = ()
    subset: Subset | None = None  # None: nobody said


@dataclass(frozen=True, slots=True)
class AnnotatedSet:
    """Images of one source, and what was found strange on the way."""

    classes: list[str]  # the position of a name is its number
    images: list[AnnotatedImage]
    notes: list[str] = field(default_factory=list)  # sentences for people

    def of(self, subset: Subset) -> list[AnnotatedImage]:
        """Return the images of a subset."""
        return [image for image in self.images if image.subset == subset]


def clipped(box: Corners, width: float, height: float) -> Corners | None:
    """Return what of a box lies on an image of that size; None: less than a thousandth of a pixel wide or high."""
    left, right = max(0.0, box[0]), min(float(width), box[2])
    top, bottom = max(0.0, box[1]), min(float(height), box[3])
    return (left, top, right, bottom) if right - left > 1e-3 and bottom - top > 1e-3 else None


def bounds(points: Sequence[float]) -> Corners:
    """Return the box around the points of a polygon, x1, y1, x2, y2, ..."""
    xs, ys = points[0::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)
