"""Answers of models of parts: a detector says where they are, an index says which they are."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tasks.images.prepare import Rgb
from tasks.inference.params import DetectParams
from tasks.inference.predictor import Answer, Loaded, Named, Region, ahead
from tasks.inference.regions import Detect, NameRegions, RegionAnswer
from tasks.inference.sources import PendingImage
from tasks.inference.weights import ModelFiles
from tasks.recognition.detector.apply import Detector, load_detector
from tasks.recognition.detector.grading.matching import overlaps
from tasks.recognition.index.apply import Named as IndexAnswer
from tasks.recognition.index.apply import PartIndex, load_index

UNKNOWN = "unknown"
"""What a part that the index does not know is called."""
_MARGIN = 0.18
"""Of the longer side of a box, beside it on an image that an index sees: the middle of what views are rendered with."""
_SAME = 0.6
"""Share of their union that two boxes have in common from which on they are of one part, whatever it is called."""


def detector_of(files: ModelFiles, device: torch.device) -> Detector:
    """Return the detector of parts in its files, ready to detect.

    Raises:
        WeightsError: they do not fit together.
    """
    return load_detector(files.weights, files.config, device)


def index_of(files: ModelFiles, device: torch.device) -> PartIndex:
    """Return the index of parts in its files, ready to answer.

    Raises:
        WeightsError: they do not fit together.
    """
    return load_index(files.weights.parent, device)


def detecting_parts(detector: Detector, params: DetectParams) -> Detect:
    """Return the function that finds parts with a detector."""
    least = detector.threshold if params.min_score is None else params.min_score

    def detect(rgb: Rgb) -> list[Region]:
        found = [
            Region(one.left, one.top, one.right, one.bottom, one.score, one.name)
            for one in detector([rgb])[0]
            if one.score >= least
        ]
        return once_each(sorted(found, key=lambda region: -region.score))[: params.max_regions]

    return detect


def once_each(regions: Sequence[Region]) -> list[Region]:
    """Return the regions, the surest first, without those that show again what a surer one shows."""
    boxes = np.array([(one.left, one.top, one.right, one.bottom) for one in regions], np.float64).reshape(-1, 4)
    in_common, kept = overlaps(boxes, boxes), list[int]()
    for number in range(len(regions)):
        if (in_common[number, kept] < _SAME).all():
            kept.append(number)
    return [regions[number] for number in kept]


def cut_as_rendered(rgb: Rgb, region: Region) -> Rgb:
    """Return the square around a region of (H, W, 3) that a view of a part would be; at the rim its pixels go on."""
    height, width = rgb.shape[:2]
    across, down = (region.right - region.left) * width, (region.bottom - region.top) * height
    side = max(1, round(max(across, down) * (1 + _MARGIN)))
    left = round((region.left + region.right) / 2 * width - side / 2)
    top = round((region.top + region.bottom) / 2 * height - side / 2)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    return np.ascontiguousarray(rgb[rows[:, None], columns])


def as_detected(crops: Sequence[Rgb], regions: Sequence[Region]) -> list[RegionAnswer]:
    """Name regions as the detector did that found them."""
    return [
        RegionAnswer(crop, named=Named(((str(region.name), region.score),)))
        for crop, region in zip(crops, regions, strict=True)
    ]


def indexed(index: PartIndex) -> NameRegions:
    """Return the function that names regions with an index."""

    def name(crops: Sequence[Rgb], regions: Sequence[Region]) -> list[RegionAnswer]:
        return [RegionAnswer(crop, named=_named(one)) for crop, one in zip(crops, index.name(list(crops)), strict=True)]

    return name


def _named(answer: IndexAnswer) -> Named:
    """Return the parts of the nearest views, each once, after what the index settled on."""
    best: dict[str, float] = {}
    for _, part, similarity in answer.nearest:
        best.setdefault(part, max(0.0, similarity))
    first = answer.part or UNKNOWN
    score = max(0.0, answer.score)
    ranking = ((first, score), *((part, value) for part, value in best.items() if part != first))
    return Named(ranking, answer.nearest[0][0] if answer.nearest else None, answer.rotation)


def answers_of_index(
    todo: Iterator[PendingImage], index: PartIndex, batch_size: int, n_workers: int = 0
) -> Iterator[list[Answer]]:
    """Yield what an index says of whole images, each of one part, a batch at a time, in order.

    Args:
        todo: images, taken a little ahead.
        index: names them.
        batch_size: images at once.
        n_workers: threads that prepare images; 0: one per core.
    """
    for batch in ahead(todo, None, batch_size, n_workers):
        found = iter(index.name([row.pixels for row in batch if row.pixels is not None]))
        yield [_answer(row, None if row.pixels is None else _named(next(found))) for row in batch]


def _answer(row: Loaded, named: Named | None) -> Answer:
    return Answer(str(row.job.path), row.job.time_s, None, row.pixels, row.size, row.seconds, row.error, named=named)
