"""Makes a new index champion where it names the same held-out views better; unknown is an answer like a part."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from tasks.base.errors import TrackingError
from tasks.base.outside import read_json
from tasks.images.images import read_rgb
from tasks.recognition.index.apply import PartIndex, load_index
from tasks.recognition.index.building import Queries
from tasks.recognition.index.grading.metrics import IndexReport
from tasks.recognition.index.index_folder import FILES
from tasks.recognition.index.views import UNKNOWN
from tasks.recognition.params import IndexParams
from tasks.tracking import registry
from tasks.training.champion import choose_champion, take_over_from_lost
from tasks.training.promotion_rule import Decision, Rules, common_files, decide

SEEN = "dataset/seen_digests.json"
INDEX_FILES = tuple(f"index/{name}" for name in FILES)
"""Where a run keeps what a later comparison needs, below its artifacts."""


def decide_promotion(
    model: tuple[str, int],
    report: IndexReport,
    queries: Queries,
    dataset: Path,
    params: IndexParams,
    device: torch.device,
) -> Decision:
    """Hold a new version against the champion and give it the alias if it is better; return the decision.

    Args:
        model: name and version of the new one.
        report: its answers.
        queries: held-out views, of parts and of shapes that are none.
        dataset: where the views are.
        params: margin and confidence.
        device: to run the champion on.

    Raises:
        TrackingError: MLflow does not answer, or other runs kept promoting theirs while this one was compared.
    """
    classes = [*report.parts, UNKNOWN]
    labels = np.minimum(queries.labels, len(report.parts))
    rules = Rules(params.class_margin, params.confidence)

    def compare(now: ModelVersion | None) -> Decision:
        if now is None:
            return decide(None, report.predicted, labels, classes, rules)
        if lost := _lost(now):
            return take_over_from_lost(now, lost)
        theirs, predicted, fair = _ask(now, queries, dataset, device)
        return decide(*(predicted, report.predicted, labels, classes, rules), champion_classes=theirs, mask=fair)

    return choose_champion(*model, compare)


def _lost(now: ModelVersion) -> str | None:
    return registry.why_lost(now.run_id, (*INDEX_FILES, SEEN))


def _ask(
    now: ModelVersion, queries: Queries, dataset: Path, device: torch.device
) -> tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]:
    """Return a champion's classes, its answers (N,), and on which files (N,) it was not trained."""
    assert now.run_id, "without one it counts as lost"
    with tempfile.TemporaryDirectory(prefix="trainyard-champion-") as folder:
        *files, seen = registry.fetch(now.run_id, (*INDEX_FILES, SEEN), Path(folder))
        fair = common_files(read_json(seen, TrackingError), queries.digests)
        index = load_index(files[0].parent, device)
    return [*index.parts, UNKNOWN], _named(index, queries, dataset), fair


def _named(index: PartIndex, queries: Queries, dataset: Path, batch: int = 256) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(index.parts)}
    found: list[int] = []
    for start in range(0, len(queries.paths), batch):
        crops = [read_rgb(dataset / path) for path in queries.paths[start : start + batch]]
        found += [numbers.get(each.part or "", len(numbers)) for each in index.name(crops)]
    return np.array(found, dtype=np.int64)
