"""Puts models on the device, and says what answers the images of a source with them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.base.workspace import cache_dir
from tasks.inference.number_format import choose_format
from tasks.inference.params import DetectParams, PredictParams
from tasks.inference.predictor import Answer, Predictor, answers
from tasks.inference.regions import Detect, answers_in_regions, classifying, detecting, load_detector
from tasks.inference.sources import PendingImage
from tasks.inference.weights import CLASSIFIER, DETECTOR, ModelFiles, load

Find = Callable[[ModelFiles | Path], Detect]
"""Takes a detector, returns what finds regions with it."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What answers images, and how."""

    image_size: int | None  # side that images are squashed to before, pixels; None: they come as prepared
    precision: str
    answers: Callable[[Iterator[PendingImage]], Iterator[list[Answer]]]
    n_pieces: Callable[[], int]  # into how many a batch is cut by now, since memory ran out


def answering(
    files: ModelFiles,
    regions: ModelFiles | Path | None,
    params: PredictParams,
    detect: DetectParams,
    device: torch.device,
    total: int,
    say: Callable[..., None],
) -> Answering:
    """Return what answers images with a model.

    Args:
        files: the model: a classifier, an index of parts, or a detector of parts, which needs no `regions`.
        regions: the detector that says where to look, ours or torchvision's SSDlite; None: at whole images.
        params: of the model.
        detect: of the detector.
        device: to compute on.
        total: images to come.
        say: told which model answers in which number format.

    Raises:
        WeightsError: weights do not fit their configuration.
    """

    def find(detector: ModelFiles | Path) -> Detect:
        return _detect(detector, detect, device)

    if files.kind == CLASSIFIER:
        model, size = load(files, device), int(files.config["image_size"])
        cache, arch = cache_dir("precision"), str(files.config["model"])
        precision, why = choose_format(params.precision, model, device, size, total, cache=cache, key=arch)
        say("%s on %s; %s", files.name, device, why)
        predictor = Predictor(model, device, precision)
        return _classifier(predictor, size, regions, find, params)
    say("%s on %s", files.name, device)
    return _parts(files, regions, find, params, device)


def _classifier(
    predictor: Predictor,
    size: int,
    regions: ModelFiles | Path | None,
    find: Find,
    params: PredictParams,
) -> Answering:
    """Return a classifier of images of `size` pixels on a side."""

    def answer(todo: Iterator[PendingImage]) -> Iterator[list[Answer]]:
        if regions is None:
            return answers(todo, predictor, size, params.batch_size, params.n_workers)
        name = classifying(predictor, size, params.batch_size)
        return answers_in_regions(todo, find(regions), name, params.n_workers)

    return Answering(size if regions is None else None, predictor.precision, answer, lambda: predictor.n_pieces)


def _parts(
    files: ModelFiles, regions: ModelFiles | Path | None, find: Find, params: PredictParams, device: torch.device
) -> Answering:
    """Return a detector of parts, or an index of them."""
    from tasks.inference.parts import answers_of_index, as_detected, cut_as_rendered, index_of, indexed

    def answer(todo: Iterator[PendingImage]) -> Iterator[list[Answer]]:
        if files.kind == DETECTOR:
            return answers_in_regions(todo, find(files), as_detected, params.n_workers)
        index = index_of(files, device)
        if regions is None:
            return answers_of_index(todo, index, params.batch_size, params.n_workers)
        return answers_in_regions(todo, find(regions), indexed(index), params.n_workers, cut_as_rendered)

    return Answering(None, "fp32", answer, lambda: 1)


def _detect(regions: ModelFiles | Path, detect: DetectParams, device: torch.device) -> Detect:
    if isinstance(regions, Path):
        return detecting(load_detector(regions, device), device, detect)
    from tasks.inference.parts import detecting_parts, detector_of

    return detecting_parts(detector_of(regions, device), detect)
