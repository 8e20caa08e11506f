"""Hands the training of an index to MLflow, page and terminal, builds the index, and reports on it."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from tasks.base.errors import WeightsError
from tasks.base.outside import read_json
from tasks.images.decoding import resize_rgb
from tasks.images.images import read_bytes, read_rgb
from tasks.recognition.dataset import name_of
from tasks.recognition.index.building import INDEX, QUERIES, Queries, building, read_queries
from tasks.recognition.index.grading import promotion
from tasks.recognition.index.grading.metrics import IndexReport, grade
from tasks.recognition.index.grading.report import summary, write_report
from tasks.recognition.index.index_folder import WEIGHTS, load_embedder, read_index_folder
from tasks.recognition.index.onnx_export import N_CHECKED, export_onnx
from tasks.recognition.index.serving import log_index
from tasks.recognition.index.training.events import EpochMetrics
from tasks.recognition.index.training.session import IndexSession
from tasks.recognition.index.views import joint_digest
from tasks.recognition.params import IndexParams
from tasks.run.display import Bars
from tasks.run.resume_point import FINISHED
from tasks.run.run_log import Logger
from tasks.tracking import registry
from tasks.tracking.tracker import Tracker
from tasks.training.promotion_rule import Decision
from tasks.training.recorder import EpochRecorder

# EpochMetrics field -> MLflow key; what stands before the slash is the section of MLflow's charts.
METRIC_KEYS: dict[str, str] = {
    "epoch": "progress/epoch",
    "total_epochs": "progress/total_epochs",
    "train_loss": "loss/train",
    "recall_1": "recall/val_1",
    "recall_5": "recall/val_5",
    "val_gap": "similarity/val_gap",
    "learning_rate": "learning_rate/last",
    "best_recall_1": "recall/best_1",
}
TABLE_COLUMNS = tuple(METRIC_KEYS)
# IndexReport's metrics -> MLflow key, logged once, at the epoch of the best weights.
TEST_KEYS: dict[str, str] = {
    "named": "named/test",
    "recall_1": "recall/test_1",
    "recall_5": "recall/test_5",
    "known_lost": "unknown/known_lost",
    "unknown_refused": "unknown/refused",
    "pose_error_deg": "pose/median_error_deg",
}


class IndexRecorder(EpochRecorder[IndexSession, EpochMetrics]):
    """What an index's training tells."""

    KEYS = METRIC_KEYS
    IMAGES = "views"

    def describe(self) -> None:
        """Record the views trained on and chosen by."""
        session = self.session
        start = 0
        for views, context in ((session.train, "training"), (session.val, "validation")):
            digests = session.digests[start : start + len(views)]
            start += len(views)
            profile = {"views": len(views), "parts": len(session.views.parts)}
            source = str(session.dataset / "views")
            self.tracker.input(
                name_of(session.dataset), source, joint_digest(digests), context=context, profile=profile
            )

    def caption(self, metrics: EpochMetrics) -> str:
        """Return the recall."""
        return f"recall@1 {metrics.recall_1:.1%}"

    def text(self, metrics: EpochMetrics) -> str:
        """Return loss and recalls."""
        recalls = f"recall@1 {metrics.recall_1:.2%}, recall@5 {metrics.recall_5:.2%}"
        return f"loss {metrics.train_loss:.4f}; {recalls}{metrics.star}"


def build_index(session: IndexSession, bars: Bars, log: Logger) -> None:
    """Fill the folder of a training that has ended with its index, unless it is there.

    Raises:
        DatasetError, WeightsError, StorageError: as their names say.
    """
    if not (session.folder / INDEX).is_dir():  # written last: a restart finds it whole or not at all
        bars.watch("embed", building(session.views, session.folder, session.params, session.device, log.info))


def report(dataset: Path, folder: Path, params: IndexParams, tracker: Tracker, log: Logger, *, model_name: str) -> str:
    """Grade an index on held-out views, register it, decide who is champion; return the summary as Markdown.

    Args:
        dataset: the views that it was trained on and is graded on.
        folder: of its training, filled by `build_index`.
        params: as the run has them.
        tracker, log: of the run.
        model_name: in MLflow's registry.

    Raises:
        TrackingError: MLflow does not take it, or does not answer.
    """
    stored, queries = read_index_folder(folder / INDEX), read_queries(folder / QUERIES)
    found = grade(stored, queries, params.n_worst)
    write_report(found, stored, queries, dataset, folder / "report")
    epoch = int(read_json(folder / FINISHED, WeightsError)["best_epoch"])
    tracker.metrics({key: found.metrics()[name] for name, key in TEST_KEYS.items()}, epoch)
    digest = joint_digest(queries.digests)
    source = str(dataset / "views" / "test")
    tracker.input(name_of(dataset), source, digest, context="testing", profile={"views": len(queries.paths)})
    _log_files(folder, dataset, queries, tracker, log)
    register = partial(_register, found, queries, dataset, folder, params, tracker, model_name, epoch)
    decision = tracker.unless_away(register)
    log.info("%.2f %% of the held-out views are named rightly", 100 * found.named)
    return summary(found, None if decision is None else _verdict(decision), stored.config["backbone"], tracker.url)


def _log_files(folder: Path, dataset: Path, queries: Queries, tracker: Tracker, log: Logger) -> None:
    """Give MLflow the index, its report, and its embedder as ONNX."""
    stored = read_index_folder(folder / INDEX)
    places = np.linspace(0, len(queries.paths) - 1, min(N_CHECKED, len(queries.paths))).astype(int)
    size = stored.config["image_size"]
    images = np.stack([resize_rgb(read_rgb(dataset / queries.paths[place]), size) for place in places])
    embedder = load_embedder(folder / INDEX / WEIGHTS, stored.config)
    lowest = export_onnx(embedder, stored.config, folder / "embedding.onnx", images)
    log.info("the embedding as ONNX gives the same vectors: cosine %.6f or more on %d views", lowest, len(images))
    tracker.metrics({"onnx/lowest_cosine": lowest}, 0)
    tracker.artifact(folder / "embedding.onnx", "onnx")
    for name in ("report", INDEX):
        tracker.artifact(folder / name, name)
    if (folder / "history.csv").is_file():
        tracker.artifact(folder / "history.csv", "figures")
    tracker.artifact(folder / "seen_digests.json", "dataset")


def _register(
    found: IndexReport,
    queries: Queries,
    dataset: Path,
    folder: Path,
    params: IndexParams,
    tracker: Tracker,
    model_name: str,
    epoch: int,
) -> Decision | None:
    example = read_bytes(dataset / queries.paths[0])
    model_uri = log_index(tracker.run_id, folder / INDEX, example, step=epoch)
    if not params.register_model:
        return None
    tracker.flush()  # a later comparison reads the index from MLflow
    tags = {"named_test": f"{found.named:.4f}", "backbone": params.backbone}
    version = registry.register(model_name, tracker.run_id, model_uri, tags=tags)
    decision = promotion.decide_promotion((model_name, version), found, queries, dataset, params, torch.device("cpu"))
    tracker.tag("model_version", f"{model_name} {version}")
    tracker.tag("decision", decision.reason)
    return decision


def _verdict(decision: Decision) -> str:
    return ("**New champion.** " if decision.promote else "**The champion stays.** ") + decision.reason
