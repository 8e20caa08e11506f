"""Promotes a new detector to champion where it finds and names the parts of the same test images better."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from tasks.base.errors import TrackingError
from tasks.base.outside import read_json
from tasks.recognition.detector.finding import Truth
from tasks.recognition.detector.grading.detections import detect_all
from tasks.recognition.detector.grading.matching import answers
from tasks.recognition.detector.training.scenes import Scenes
from tasks.recognition.detector.weights import load_detector_weights
from tasks.recognition.params import DetectorParams
from tasks.tracking import registry
from tasks.training.champion import ChampionAnswers, choose_champion, take_over_from_lost
from tasks.training.promotion_rule import Decision, Rules, common_files, decide

WEIGHTS, CONFIG, SEEN = "weights/best.pt", "config/model.json", "dataset/seen_digests.json"
"""Where a run keeps what a later comparison needs, below its artifacts."""
MISSED = "missed"
"""The class that stands for no detection."""


@dataclass(frozen=True, slots=True)
class PartAnswers:
    """What a detector answers for each part on the test images: N parts, crowds left out."""

    classes: list[str]  # names of the parts; len(classes) stands for MISSED
    predicted: NDArray[np.int64]  # (N,)
    labels: NDArray[np.int64]  # (N,) what is there
    digests: list[str]  # (N,) of the image of each


def part_answers(
    found: Sequence[Any], truth: Sequence[Truth], digests: Sequence[str], config: Mapping[str, Any]
) -> PartAnswers:
    """Return what is answered for each part at the working threshold of a detector."""
    classes = list(config["classes"])
    there = [labels[~crowds] for _, labels, crowds in truth]
    repeated = [digest for digest, labels in zip(digests, there, strict=True) for _ in labels]
    labels = np.concatenate([np.zeros(0, np.int64), *there])
    return PartAnswers(classes, answers(found, truth, config["threshold"], len(classes)), labels, repeated)


def ask_champion(
    name: str, images: Scenes, truth: Sequence[Truth], params: DetectorParams, device: torch.device
) -> ChampionAnswers | None:
    """Return what the champion of a model answers on test images; None: there is none to be compared.

    Args:
        name: of the registered model.
        images: their digests known.
        truth: what is on them, shares of the longer side.
        params: batch size and threads.
        device: to compute on.

    Raises:
        TrackingError: MLflow does not answer.
    """
    now = registry.champion(name)
    return None if now is None or _lost(now) else _theirs(now, images, truth, params, device)


def decide_promotion(
    name: str,
    version: int,
    ours: PartAnswers,
    params: DetectorParams,
    known: ChampionAnswers | None,
    test: tuple[Scenes, Sequence[Truth]],
) -> Decision:
    """Hold a new version against the champion and give it the alias if it is better; return the decision.

    Args:
        name, version: of the registered model.
        ours: what the new version answers.
        params: margin and confidence.
        known: what the champion answers, where it is still the same one.
        test: images and truth, to ask another champion, on the CPU.

    Raises:
        TrackingError: MLflow does not answer, or other runs kept promoting theirs meanwhile.
    """
    return choose_champion(name, version, lambda now: _compare(now, ours, params, known, test))


def _compare(
    now: ModelVersion | None,
    ours: PartAnswers,
    params: DetectorParams,
    known: ChampionAnswers | None,
    test: tuple[Scenes, Sequence[Truth]],
) -> Decision:
    names, rules = [*ours.classes, MISSED], Rules(params.class_margin, params.confidence)
    if now is None:
        return decide(None, ours.predicted, ours.labels, names, rules)
    if lost := _lost(now):
        return take_over_from_lost(now, lost)
    if known is None or not known.is_of(now, ours.digests):
        known = _theirs(now, test[0], test[1], params, torch.device("cpu"))
    theirs = [*known.classes, MISSED]
    return decide(
        *(known.predicted, ours.predicted, ours.labels, names, rules), champion_classes=theirs, mask=known.fair
    )


def _lost(now: ModelVersion) -> str | None:
    return registry.why_lost(now.run_id, (WEIGHTS, CONFIG, SEEN))


def _theirs(
    now: ModelVersion, images: Scenes, truth: Sequence[Truth], params: DetectorParams, device: torch.device
) -> ChampionAnswers:
    """Return what a champion that is not lost answers."""
    assert now.run_id, "without one it counts as lost"
    with tempfile.TemporaryDirectory(prefix="trainyard-champion-") as folder:
        weights, config, seen = registry.fetch(now.run_id, (WEIGHTS, CONFIG, SEEN), Path(folder))
        champion = read_json(config, TrackingError)
        seen_digests = read_json(seen, TrackingError)
        model = load_detector_weights(weights, champion)
    settings = params.model_copy(update={"image_size": champion["image_size"]})
    resized = Scenes(images.images, settings.image_size, keep=False)
    found = detect_all(model, resized, settings, device, champion.get("precision", "fp32"))
    theirs = part_answers(found, truth, images.digests, champion)
    fair = common_files(seen_digests, theirs.digests)
    return ChampionAnswers(int(now.version), now.run_id, theirs.classes, theirs.digests, theirs.predicted, fair)
