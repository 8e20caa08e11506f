"""Draws the boxes of a detector on images, and writes them as COCO JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from tasks.base.workspace import write_json
from tasks.images.images import upright_size
from tasks.images.prepare import Rgb
from tasks.inference.predictor import Answer, Region
from tasks.recognition.coco.annotations import AnnotatedImage, Annotation
from tasks.recognition.coco.write_coco import coco_content

BOXES, COCO = "boxes.jpg", "annotations.json"
# Okabe and Ito 2008, in RGB; classes take them in turn.
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))
_SIDE_PX = 640  # of an image with boxes, about
_GAP_PX = 6


@dataclass(slots=True)
class FoundBoxes:
    """All boxes of a prediction, in pixels of the images as their files have them."""

    classes: list[str] = field(default_factory=list)  # in the order in which they were found
    images: list[AnnotatedImage] = field(default_factory=list)

    def add(self, answers: Sequence[Answer], names: Sequence[str | None], scores: Sequence[float | None]) -> None:
        """Take the answers to one image.

        Args:
            answers: at least one, all to the same image.
            names: of what each region shows, None where there is none.
            scores: in [0, 1].
        """
        first = answers[0]
        if first.whole is None:
            return
        height, width = first.whole.shape[:2]
        if first.time_s is None:  # a file of its own, which may be larger than what was looked at
            width, height = upright_size(Path(first.path))
        found = [
            self._annotation(answer.region, name, score, width, height)
            for answer, name, score in zip(answers, names, scores, strict=True)
            if answer.region is not None and name is not None
        ]
        self.images.append(AnnotatedImage(Path(first.path), width, height, tuple(found)))

    def _annotation(self, region: Region, name: str, score: float | None, width: int, height: int) -> Annotation:
        if name not in self.classes:
            self.classes.append(name)
        box = region.left * width, region.top * height, region.right * width, region.bottom * height
        area = (box[2] - box[0]) * (box[3] - box[1])
        return Annotation(self.classes.index(name), box, area, extra={"score": score, "region_score": region.score})

    def write(self, path: Path, root: Path) -> None:
        """Write them as COCO JSON, with the key `score` in each annotation.

        Args:
            path: of the file.
            root: folder that the names of the images are relative to.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(path, coco_content(self.images, self.classes, root))


def with_boxes(rgb: Rgb, regions: Sequence[Region], names: Sequence[str], scores: Sequence[float]) -> Rgb:
    """Return the image with boxes and names on it, enlarged or shrunk so that the names can be read.

    Args:
        rgb: (H, W, 3).
        regions: of it.
        names, scores: of each region.
    """
    scale = _SIDE_PX / max(rgb.shape[:2])
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    resized = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    drawn: Rgb = np.ascontiguousarray(resized, dtype=np.uint8)
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    for region, name, score in zip(regions, names, scores, strict=True):
        colour = _COLOURS[order[name] % len(_COLOURS)]
        left, top = round(region.left * size[0]), round(region.top * size[1])
        right, bottom = round(region.right * size[0]), round(region.bottom * size[1])
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
        _write(drawn, f"{name} {score:.0%}", left, top, colour)
    return drawn


def contact_sheet(images: Sequence[Rgb], columns: int = 3) -> Rgb:
    """Return images side by side in rows, each in the middle of a white cell of the size of the largest.

    Args:
        images: (H, W, 3) each, at least one.
        columns: at least 1.
    """
    height, width = (max(image.shape[side] for image in images) + 2 * _GAP_PX for side in (0, 1))
    n_columns = min(columns, len(images))
    sheet = np.full((height * -(-len(images) // n_columns), width * n_columns, 3), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, n_columns)
        top = row * height + (height - image.shape[0]) // 2
        left = column * width + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _write(drawn: Rgb, text: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
    """Write a line above a place, or below it at the upper edge, on a ground of the colour."""
    line = text.encode("ascii", "replace").decode()  # OpenCV's letters
    (width, height), below = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    bottom = top if top >= height + below + 2 else top + height + below + 2
    cv2.rectangle(drawn, (left, bottom - height - below - 2), (left + width + 4, bottom), colour, cv2.FILLED)
    ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
    place = left + 2, bottom - below
    cv2.putText(drawn, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, 1, cv2.LINE_AA)
