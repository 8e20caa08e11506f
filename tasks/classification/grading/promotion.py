"""Promotes a new model to champion where it answers the same test files better."""

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
from tasks.base.workspace import replacing
from tasks.classification.data.samples import Samples
from tasks.classification.grading.answers import Answers, answer, load_model
from tasks.classification.params import EvaluateParams
from tasks.tracking import registry
from tasks.training.champion import settle_champion
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


@dataclass(frozen=True, slots=True)
class ChampionAnswers:
    """What a champion answers on the test files of its challenger."""

    version: int
    run_id: str  # of MLflow; a model that was deleted and made anew counts its versions from 1 again
    classes: list[str]
    digests: list[str]  # of the N files, in their order
    predicted: NDArray[np.int64]  # (N,) in the order of `classes`
    fair: NDArray[np.bool_]  # (N,) it was not trained on that file

    def keep(self, path: Path) -> None:
        """Write it to a file.

        Raises:
            StorageError: it cannot be written.
        """
        with replacing(path) as file:
            named: dict[str, Any] = {
                "version": self.version,
                "run_id": self.run_id,
                "classes": self.classes,
                "digests": self.digests,
            }
            np.savez(file, allow_pickle=False, predicted=self.predicted, fair=self.fair, **named)

    def is_of(self, champion: ModelVersion, digests: Sequence[str]) -> bool:
        """Return whether this is what a champion answers on these files."""
        same = (self.version, self.run_id) == (int(champion.version), champion.run_id)
        return same and self.digests == list(digests)


def read_champion_answers(path: Path) -> ChampionAnswers | None:
    """Return what `ChampionAnswers.keep` wrote; None: nothing."""
    if not path.is_file():
        return None
    with np.load(path) as found:
        named = {name: found[name].tolist() for name in ("version", "run_id", "classes", "digests")}
        return ChampionAnswers(**named, predicted=found["predicted"], fair=found["fair"])


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
    return settle_champion(
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
    # Without this, deleting an old run in MLflow would make every grading after it fail.
    if lost := _lost(now):
        return Decision(True, f"promoted: version {now.version}, the champion, cannot be compared any more: {lost}")
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
