"""The table of the frames that were looked at: which were chosen, and why."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.workspace import write_atomic

IMAGES, MASKS, MODEL = "images", "masks", "sparse/0"
"""What lies where in a folder of images and their cameras."""

MIN_IMAGES = 3
"""Two views fix no scale to check a third against."""


@dataclass(frozen=True, slots=True)
class FrameRow:
    """One image that was looked at."""

    index: int  # in the video, or in the folder's order; from 0
    time_s: float | None  # since the first image; None: a photograph
    sharpness: float  # variance of the Laplacian of a small grey copy
    chosen: bool
    reason: str
    name: str  # of the image written, or of the photograph


@dataclass(frozen=True, slots=True)
class FramesReport:
    """What was taken from a video or a folder."""

    images: Path  # the folder of images
    names: tuple[str, ...]  # of the images, in order
    rows: tuple[FrameRow, ...]  # one per image looked at

    def moved_to(self, folder: Path) -> "FramesReport":
        """Return the report with the images in another folder."""
        return replace(self, images=folder / IMAGES)


def write_table(path: Path, rows: Sequence[FrameRow]) -> None:
    """Write one line per image that was looked at: index, time_s, sharpness, chosen, reason, name."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["index", "time_s", "sharpness", "chosen", "reason", "name"])
    for row in rows:
        time_s = "" if row.time_s is None else f"{row.time_s:.3f}"
        table.writerow([row.index, time_s, f"{row.sharpness:.2f}", int(row.chosen), row.reason, row.name])
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_table(path: Path) -> list[FrameRow]:
    """Return the lines that `write_table` wrote."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [
            FrameRow(
                int(line["index"]),
                float(line["time_s"]) if line["time_s"] else None,
                float(line["sharpness"]),
                line["chosen"] == "1",
                line["reason"],
                line["name"],
            )
            for line in csv.DictReader(file)
        ]


def check_enough(rows: Sequence[FrameRow], n_chosen: int, source: Path) -> None:
    """Say why nothing can be made of so few images.

    Raises:
        DatasetError: fewer than three were chosen.
    """
    if n_chosen >= MIN_IMAGES:
        return
    n_black = sum(row.reason == "black" for row in rows)
    n_flat = sum(row.reason == "flat" for row in rows)
    n_same = sum(row.reason.startswith("same view") for row in rows)
    found = f"{source}: {n_chosen} usable image(s) of {len(rows)} looked at, need at least {MIN_IMAGES}"
    if n_black + n_flat > len(rows) // 2:
        raise DatasetError(f"{found}; {n_black} are black and {n_flat} without any detail: film with more light")
    if n_same:
        raise DatasetError(
            f"{found}; {n_same} show the same view as the one before: the camera did not move. Walk around the scene "
            "while filming, so that every part is seen from several sides"
        )
    raise DatasetError(f"{found}; film longer, 20 s or more")
