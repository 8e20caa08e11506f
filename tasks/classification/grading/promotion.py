"""Promotes a new model to champion where it answers the same test files better."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.entities.model_registry import ModelVersion

from tasks.base.errors import TrackingError
from tasks.base.outside import read_json
from tasks.classification.data.samples import Samples
from tasks.classification.grading.answers import Answers, answer, load_model
from tasks.classification.params import EvaluateParams
from tasks.tracking import registry
from tasks.training.champion import ChampionAnswers, choose_champion, take_over_from_lost
from tasks.training.promotion_rule import Decision, Rules, common_files, decide

WEIGHTS, CONFIG, SEEN = "weights/best.pt", "config/model.json", "dataset/seen_digests.json"
"""Where a run keeps what a later comparison needs, below its artifacts."""


@dataclass(frozen=True, slots=True)
class Challenger:
    """A new version of a registered model and what it answers on its test files."""

    model_name: str
    version: int
    answers: Answers
    config: Mapping[str, Any]


def ask_champion(name: str, answers: Answers, device: torch.device, *, cache: Path) -> ChampionAnswers | None:
    """Return what the champion of a model answers on the files of `answers`; None: there is none to be compared.

    Raises:
        TrackingError: MLflow does not answer.
    """
    now = registry.champion(name)
    return None if now is None or _lost(now) else _theirs(now, answers, device, cache)


def decide_promotion(
    challenger: Challenger, params: EvaluateParams, known: ChampionAnswers | None, device: torch.device, *, cache: Path
) -> Decision:
    """Hold a new version against the champion and give it the alias if it is better; return the decision.

    Args:
        challenger: the new version.
        params: margin and confidence.
        known: what the champion answers, where it is still the same one.
        device: to run another one on.
        cache: folder for shrunk images.

    Raises:
        TrackingError: MLflow does not answer, or other runs kept promoting theirs while this one was compared.
    """
    return choose_champion(
        challenger.model_name, challenger.version, lambda now: _compare(now, challenger, params, known, device, cache)
    )


def _compare(
    now: ModelVersion | None,
    challenger: Challenger,
    params: EvaluateParams,
    known: ChampionAnswers | None,
    device: torch.device,
    cache: Path,
) -> Decision:
    answers, rules = challenger.answers, Rules(params.class_margin, params.confidence)
    ours, classes = answers.probabilities.argmax(1), challenger.config["classes"]
    if now is None:
        return decide(None, ours, answers.labels, classes, rules)
    if lost := _lost(now):
        return take_over_from_lost(now, lost)
    if known is None or not known.is_of(now, answers.digests):
        known = _theirs(now, answers, device, cache)
    return decide(
        *(known.predicted, ours, answers.labels, classes, rules), champion_classes=known.classes, mask=known.fair
    )


def _lost(now: ModelVersion) -> str | None:
    return registry.why_lost(now.run_id, (WEIGHTS, CONFIG, SEEN))


def _theirs(now: ModelVersion, answers: Answers, device: torch.device, cache: Path) -> ChampionAnswers:
    """Return what a champion that is not lost answers."""
    assert now.run_id, "without one it counts as lost"
    with tempfile.TemporaryDirectory(prefix="trainyard-champion-") as folder:
        weights, config, seen = registry.fetch(now.run_id, (WEIGHTS, CONFIG, SEEN), Path(folder))
        champion = read_json(config, TrackingError)
        fair = common_files(read_json(seen, TrackingError), answers.digests)
        model = load_model(weights, champion)
    samples = Samples(answers.paths, answers.labels.tolist())
    predicted = answer(model, champion, samples, device, cache=cache).probabilities.argmax(1)
    return ChampionAnswers(int(now.version), now.run_id, champion["classes"], answers.digests, predicted, fair)
