"""Two-stage inference: a detector proposes regions, and the classifier names each of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from tasks.base.config import read_parameters
from tasks.base.errors import ConfigError, WeightsError
from tasks.base.outside import PARAMETER_BYTES, read_json
from tasks.base.workspace import allowed_path
from tasks.images.decoding import resize_rgb
from tasks.images.prepare import Rgb
from tasks.inference.params import DetectParams, PredictParams, from_training
from tasks.inference.predictor import Answer, Loaded, Named, Predictor, Region, ahead, stacked
from tasks.inference.sources import PendingImage
from tasks.training.state_dicts import read_state_dict

DETECTOR = "ssdlite320_mobilenet_v3_large"
_MIN_SCORE = 0.3
_ANCHORS = 6  # per place, in each of its feature maps
_HEAD = "head.classification_head.module_list.0.1.weight"

Detect = Callable[[Rgb], list[Region]]
"""(H, W, 3) prepared image -> its regions, best first."""


@dataclass(frozen=True, slots=True, eq=False)
class RegionAnswer:
    """What is said of a region."""

    pixels: Rgb  # as the model sees it
    logits: NDArray[np.float32] | None = None  # (C,) of a classifier
    named: Named | None = None  # of a model of parts


Cut = Callable[[Rgb, Region], Rgb]
"""(H, W, 3) image, a region of it -> what the model is to see of it."""

NameRegions = Callable[[Sequence[Rgb], Sequence[Region]], list[RegionAnswer]]
"""Crops (H, W, 3), at least one, and the regions they are cut from -> what they show."""


@dataclass(frozen=True, slots=True)
class TwoStages:
    """What RFUAV's two-stage JSON says."""

    detector: Path
    classifier: Path
    cfg: Path | None  # YAML of the classifier
    save_dir: Path | None


def read_two_stages(path: Path) -> TwoStages:
    """Return what a two-stage JSON names: `detector` and `classifier`, each with its `weight_path`.

    Its `target_dir` is the `data` of the run and not read here.

    Raises:
        ConfigError: it is not JSON, a stage is missing, or the detector is another than torchvision's SSDlite.
    """
    content = read_json(path, ConfigError, PARAMETER_BYTES)
    stages = content if isinstance(content, dict) else {}
    detector, classifier = (_stage(stages, name, path) for name in ("detector", "classifier"))
    name = detector.get("model_name", DETECTOR)
    if name != DETECTOR:
        raise ConfigError(f"found the detector {name!r} in {path}, need {DETECTOR}: others cannot be run here")
    cfg, save_dir = classifier.get("cfg"), stages.get("save_dir")
    return TwoStages(
        detector=Path(detector["weight_path"]),
        classifier=Path(classifier["weight_path"]),
        cfg=Path(cfg) if cfg else None,
        save_dir=Path(save_dir) if save_dir else None,
    )


def _stage(stages: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    stage = stages.get(name)
    if not isinstance(stage, dict) or not isinstance(stage.get("weight_path"), str) or not stage["weight_path"]:
        raise ConfigError(f"found no {name} with a weight_path, a text, in {path}, need detector and classifier")
    return stage


def from_two_stages(params: PredictParams, detect: DetectParams) -> tuple[PredictParams, DetectParams]:
    """Return the parameters with what the two-stage JSON of `detect.config` says; without one, as they are.

    The classifier's YAML may be any that RFUAV trains with; its device, like everything that was given another value
    than the default, gives way.

    Raises:
        ConfigError: the files cannot be read, or say the wrong thing.
    """
    if detect.config is None:
        return params, detect
    stages = read_two_stages(allowed_path(detect.config))
    said = from_training(read_parameters(allowed_path(stages.cfg))).get("predict", {}) if stages.cfg else {}
    said |= {"weights": str(stages.classifier), "save_path": stages.save_dir}
    # Not by what was set: a form, and every run that goes through Prefect's server, sets all fields.
    given, plain = params.model_dump(), PredictParams().model_dump()
    try:
        merged = PredictParams.model_validate({**said, **{n: value for n, value in given.items() if value != plain[n]}})
    except ValidationError as exc:
        raise ConfigError(f"the classifier's configuration {stages.cfg} cannot be used: {exc}") from exc
    own = detect.model_copy(update={"weights": str(stages.detector)})
    return merged.model_copy(update={"device": params.device}), own


def load_detector(weights: Path, device: torch.device) -> nn.Module:
    """Return torchvision's SSDlite with the weights of a file, on the device, ready to detect.

    The number of its classes is that of the file, background included.

    Raises:
        WeightsError: the file is none of weights, carries code, or is of another detector.
    """
    state = read_state_dict(weights)
    if _HEAD not in state or state[_HEAD].shape[0] % _ANCHORS:
        raise WeightsError(f"found no head of {DETECTOR} in {weights}")
    n_classes = state[_HEAD].shape[0] // _ANCHORS
    detector = cast(
        nn.Module, ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=n_classes)
    )
    try:
        detector.load_state_dict(state)
    except RuntimeError as exc:
        first = str(exc).strip().splitlines()[1].strip()
        raise WeightsError(f"weights in {weights} do not fit {DETECTOR}: {first}") from exc
    return detector.to(device).eval()


def detecting(detector: nn.Module, device: torch.device, params: DetectParams) -> Detect:
    """Return the function that finds regions with a detector on its device."""
    least = _MIN_SCORE if params.min_score is None else params.min_score

    @torch.inference_mode()
    def detect(rgb: Rgb) -> list[Region]:
        image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).to(device).float() / 255  # (3, H, W)
        found: Mapping[str, Tensor] = detector([image])[0]
        height, width = rgb.shape[:2]
        shares = (found["boxes"].cpu() / torch.tensor([width, height, width, height])).clamp(0, 1).tolist()
        regions = [
            Region(box[0], box[1], box[2], box[3], score)
            for box, score in zip(shares, found["scores"].tolist(), strict=True)
            if box[2] > box[0]
        ]
        wide = [r for r in regions if r.score >= least and r.bottom > r.top]
        return sorted(wide, key=lambda region: -region.score)[: params.max_regions]

    return detect


def cut(rgb: Rgb, region: Region) -> Rgb:
    """Return the part of (H, W, 3) that a region covers, of one pixel at least."""
    height, width = rgb.shape[:2]
    left, top = min(int(region.left * width), width - 1), min(int(region.top * height), height - 1)
    right, bottom = max(left + 1, round(region.right * width)), max(top + 1, round(region.bottom * height))
    return np.ascontiguousarray(rgb[top:bottom, left:right])


def answers_in_regions(
    todo: Iterator[PendingImage], detect: Detect, name: NameRegions, n_workers: int = 0, crop: Cut = cut
) -> Iterator[list[Answer]]:
    """Yield the answers to the regions of each image, in order; without a region one answer that says nothing.

    Args:
        todo: images, taken a little ahead.
        detect: finds regions.
        name: names them.
        n_workers: threads that prepare images; 0: one per core.
        crop: what `name` is given of each region.
    """
    for batch in ahead(todo, None, 1, n_workers):
        for row in batch:
            yield _answers_of(row, detect, name, crop)


def _answers_of(row: Loaded, detect: Detect, name: NameRegions, crop: Cut) -> list[Answer]:
    nothing = Answer(str(row.job.path), row.job.time_s, None, None, row.size, row.seconds, row.error, whole=row.pixels)
    started = time.perf_counter()
    regions = [] if row.pixels is None else detect(row.pixels)
    if row.pixels is None or not regions:
        return [replace(nothing, seconds=row.seconds + time.perf_counter() - started)]
    named = name([crop(row.pixels, region) for region in regions], regions)
    seconds = (row.seconds + time.perf_counter() - started) / len(regions)
    return [
        replace(
            nothing,
            logits=named[number].logits,
            named=named[number].named,
            pixels=named[number].pixels,
            size=cut(row.pixels, region).shape[1::-1],
            seconds=seconds,
            region=region,
            number=number,
        )
        for number, region in enumerate(regions)
    ]


def classifying(predictor: Predictor, size: int, batch_size: int) -> NameRegions:
    """Return the function that names regions with a classifier.

    Args:
        predictor: the model.
        size: S, of its images, pixels.
        batch_size: regions at once.
    """

    def name(crops: Sequence[Rgb], regions: Sequence[Region]) -> list[RegionAnswer]:
        squashed = [resize_rgb(crop, size) for crop in crops]
        parts = [stacked(squashed[i : i + batch_size]) for i in range(0, len(squashed), batch_size)]
        logits = np.concatenate([predictor(part) for part in parts])
        return [RegionAnswer(pixels, row) for pixels, row in zip(squashed, logits, strict=True)]

    return name
