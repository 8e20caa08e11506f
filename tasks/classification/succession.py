"""Whether a newly trained model becomes the champion: both answer the same test files, and the decision is kept."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.entities.model_registry import ModelVersion

from tasks import registry
from tasks.classification.champion import Decision, Rules, common_files, decide
from tasks.classification.data import Samples
from tasks.classification.grading import Answers, answer, load_model
from tasks.classification.params import EvaluateParams
from tasks.errors import TrackingError
from tasks.outside import read_json
from tasks.workspace import held, home

WEIGHTS, CONFIG, SEEN = "weights/best.pt", "config/model.json", "dataset/seen_digests.json"
"""Where a run keeps what a later comparison needs, below its artifacts."""
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Challenger:
    """A new version of a registered model and what it answers on its test files."""

    model_name: str
    version: int
    answers: Answers
    config: Mapping[str, Any]


def succeed(challenger: Challenger, params: EvaluateParams, device: torch.device, *, cache: Path) -> Decision:
    """Hold a new version against the champion and give it the alias if it is better; return the decision.

    Args:
        challenger: the new version.
        params: margin and confidence.
        device: to run the champion on.
        cache: folder for shrunk images.

    Raises:
        TrackingError: MLflow does not answer, or other runs kept promoting theirs while this one was compared.
    """
    name, version = challenger.model_name, challenger.version
    # One decision at a time on this host; runs of other hosts are noticed when the alias is to move.
    with held(home() / "locks" / f"champion-{name}", f"the champion of {name}", wait=True):
        for _ in range(_ATTEMPTS):
            now = registry.champion(name)
            number = None if now is None else int(now.version)
            if now is not None and number == version:
                return Decision(True, now.description or "promoted before a restart")
            decision = _compare(now, challenger, params, device, cache)
            # Written before the alias moves: killed in between, the next attempt decides again, no reason is lost.
            tags = {"promoted": str(decision.promote).lower(), "compared_with": str(number or "none")}
            registry.annotate(name, version, tags=tags, description=decision.reason)
            if not decision.promote or registry.promote(name, version, instead_of=number):
                return decision
        raise TrackingError(
            f"the champion of {name} changed {_ATTEMPTS} times while version {version} was compared: compare again"
        )


def _compare(
    now: ModelVersion | None, challenger: Challenger, params: EvaluateParams, device: torch.device, cache: Path
) -> Decision:
    answers = challenger.answers
    theirs, classes, mask = None, None, None
    if now is not None:
        # Without this, deleting an old run in MLflow would make every grading after it fail.
        if lost := registry.why_lost(now.run_id, (WEIGHTS, CONFIG, SEEN)):
            return Decision(True, f"promoted: version {now.version}, the champion, cannot be compared any more: {lost}")
        assert now.run_id, "without one it counts as lost"
        with tempfile.TemporaryDirectory(prefix="trainyard-champion-") as folder:
            weights, config, seen = registry.fetch(now.run_id, (WEIGHTS, CONFIG, SEEN), Path(folder))
            champion_config = read_json(config, TrackingError)
            classes = champion_config["classes"]
            mask = common_files(read_json(seen, TrackingError), answers.digests)
            model = load_model(weights, champion_config)
        samples = Samples(answers.paths, answers.labels.tolist())
        theirs = answer(model, champion_config, samples, device, cache=cache).probabilities.argmax(1)
    return decide(
        theirs,
        answers.probabilities.argmax(1),
        answers.labels,
        challenger.config["classes"],
        Rules(params.class_margin, params.confidence),
        champion_classes=classes,
        mask=mask,
    )
