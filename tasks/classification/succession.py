"""Whether a newly trained model becomes the champion: both answer the same test files, and the decision is kept."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mlflow.entities.model_registry import ModelVersion

from tasks import registry
from tasks.classification.champion import Decision, common_files, decide
from tasks.classification.data import Samples
from tasks.classification.grading import Answers, answer, load_model
from tasks.classification.params import EvaluateParams
from tasks.errors import TrackingError
from tasks.store import client as store_client
from tasks.workspace import held, home

WEIGHTS, CONFIG, SEEN = "weights/best.pt", "config/model.json", "dataset/seen_digests.json"
"""Where a run keeps what a later comparison needs, below its artifacts."""
_ATTEMPTS = 5


def succeed(
    model_name: str,
    version: int,
    answers: Answers,
    config: Mapping[str, Any],
    params: EvaluateParams,
    device: torch.device,
    *,
    cache: Path,
) -> Decision:
    """Hold a new version against the champion and give it the alias if it is better; return the decision.

    Args:
        model_name: of the registered model.
        version: the new one.
        answers: of the new model on its test files.
        config: of the new model.
        params: margin and confidence.
        device: to run the champion on.
        cache: folder for shrunk images.

    Raises:
        TrackingError: other runs kept promoting theirs while this one was compared.
    """
    lock = home() / "locks" / f"champion-{model_name}"
    # One decision at a time on this host; runs of other hosts are noticed when the alias is to move.
    with held(lock, f"the champion of {model_name}", wait=True):
        for _ in range(_ATTEMPTS):
            now = registry.champion(model_name)
            if now is not None and int(now.version) == version:
                return Decision(True, now.description or "promoted before a restart")
            decision = _compare(now, answers, config, params, device, cache)
            # Written before the alias moves: killed in between, the next attempt decides again, no reason is lost.
            tags = {
                "promoted": str(decision.promote).lower(),
                "compared_with": "none" if now is None else str(now.version),
            }
            registry.annotate(model_name, version, tags=tags, description=decision.reason)
            if not decision.promote or registry.promote(
                model_name, version, instead_of=None if now is None else int(now.version)
            ):
                return decision
        raise TrackingError(
            f"the champion of {model_name} changed {_ATTEMPTS} times while version {version} was compared: "
            "compare again"
        )


def _compare(
    now: ModelVersion | None,
    answers: Answers,
    config: Mapping[str, Any],
    params: EvaluateParams,
    device: torch.device,
    cache: Path,
) -> Decision:
    theirs, classes, mask = None, None, None
    if now is not None:
        assert now.run_id is not None, "every version here is registered from a run"
        with tempfile.TemporaryDirectory(prefix="trainyard-champion-") as folder:
            weights, their_config, seen = (
                Path(store_client().download_artifacts(now.run_id, name, folder)) for name in (WEIGHTS, CONFIG, SEEN)
            )
            champion_config = json.loads(their_config.read_text())
            classes = champion_config["classes"]
            mask = common_files(json.loads(seen.read_text()), answers.digests)
            model = load_model(weights, champion_config)
        samples = Samples(answers.paths, answers.labels.tolist())
        theirs = answer(model, champion_config, samples, device, cache=cache).probabilities.argmax(1)
    return decide(
        theirs,
        answers.probabilities.argmax(1),
        answers.labels,
        config["classes"],
        class_margin=params.class_margin,
        confidence=params.confidence,
        champion_classes=classes,
        mask=mask,
    )
