"""Logs a training and its grading to MLflow: metrics, tables, images and files."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.base.errors import TrainyardError
from tasks.base.workspace import copy_whole, read_step_info, storage_errors
from tasks.classification.grading import promotion
from tasks.classification.grading.answers import (
    Answers,
    answer,
    graded_samples,
    graded_subset,
    load_model,
    read_answers,
    report_on,
    write_answers,
    write_images,
)
from tasks.classification.grading.evaluate import TestReport, report_metrics
from tasks.classification.params import EvaluateParams
from tasks.classification.serving import log_classifier
from tasks.classification.training.events import EpochMetrics, read_history
from tasks.classification.training.session import TrainingSession
from tasks.images.images import encode_jpeg, read_rgb
from tasks.tracking import registry
from tasks.tracking.tracker import Tracker
from tasks.training.champion import read_champion_answers
from tasks.training.events import BatchDone
from tasks.training.promotion_rule import Decision
from tasks.training.recorder import EpochRecorder

# EpochMetrics field -> MLflow key; what stands before the slash is the section of MLflow's charts.
METRIC_KEYS: dict[str, str] = {
    "epoch": "progress/epoch",
    "total_epochs": "progress/total_epochs",
    "train_loss": "loss/train",
    "train_acc": "accuracy/train",
    "val_loss": "loss/val",
    "val_acc": "accuracy/val",
    "macro_f1": "f1/val_macro",
    "micro_f1": "f1/val_micro",
    "mAP": "average_precision/val",
    "top1_acc": "top_k/val_1",
    "top3_acc": "top_k/val_3",
    "top5_acc": "top_k/val_5",
    "precision": "precision/val",
    "recall": "recall/val",
    "learning_rate": "learning_rate/last",
    "best_acc": "accuracy/best",
}
# Of an epoch, what the table on Prefect's page has room for.
TABLE_COLUMNS = ("epoch", "train_loss", "val_loss", "train_acc", "val_acc", "macro_f1", "learning_rate", "best_acc")
ANSWERS, CHAMPION = "answers.npz", "champion.npz"
"""In the folder of a training: what its best weights, and the champion of that time, answer on the graded part."""

# report_metrics' name -> MLflow key, logged once, at the epoch of the best weights.
TEST_KEYS: dict[str, str] = {
    "loss": "loss/test",
    "accuracy": "accuracy/test",
    "f1_macro": "f1/test_macro",
    "f1_micro": "f1/test_micro",
    "average_precision": "average_precision/test",
    "top1": "top_k/test_1",
    "top3": "top_k/test_3",
    "top5": "top_k/test_5",
    "precision": "precision/test",
    "recall": "recall/test",
    "calibration_error": "calibration_error/test",
}


class TrainingRecorder(EpochRecorder[TrainingSession, EpochMetrics]):
    """What a classifier's training tells: the sixteen metrics, and data known from the first epoch at the latest."""

    KEYS = METRIC_KEYS

    def can_describe(self, event: Any) -> bool:
        """Return true for data prepared here; other data is known once the first epoch has read its files."""
        return not isinstance(event, BatchDone) and self.session.digests_known

    def describe(self) -> None:
        """Record the dataset."""
        describe_data(self.session, self.tracker)

    def caption(self, metrics: EpochMetrics) -> str:
        """Return loss and accuracy."""
        return f"loss {metrics.train_loss:.3f}  val {metrics.val_acc:.1%}"

    def text(self, metrics: EpochMetrics) -> str:
        """Return losses, accuracies and F1."""
        return (
            f"loss {metrics.train_loss:.4f} train, {metrics.val_loss:.4f} val; "
            f"accuracy {metrics.train_acc:.2%} train, {metrics.val_acc:.2%} val{metrics.star}; "
            f"macro F1 {metrics.macro_f1:.3f}"
        )


def name_of(dataset: Path) -> str:
    """Return what people call a prepared dataset: the folder it was made from."""
    source = read_step_info(dataset).get("data", dataset)
    return Path(source).name if isinstance(source, (str, Path)) else Path(source["train"]).parent.name


def describe_data(session: TrainingSession, tracker: Tracker) -> None:
    """Record the dataset of a training with its digest and the images per class."""
    contexts = {"train": "training", "val": "validation"}
    for name, context in contexts.items():
        part = session.parts[name]
        counts = torch.bincount(torch.tensor(part.samples.labels), minlength=len(session.classes)).tolist()
        tracker.input(
            name_of(session.dataset),
            str(session.dataset / name),
            joint_digest(part.digests),  # its own: MLflow takes inputs of the same digest for one
            context=context,
            profile={
                "images": len(part.samples.paths),
                "classes": dict(zip(session.classes, counts, strict=True)),
            },
        )


def keep_answers(
    dataset: Path,
    training: Path,
    device: torch.device,
    *,
    model_name: str | None,
    cache: Path,
    log: Callable[[str], None],
) -> None:
    """Write down what the best weights, and the champion, answer on the graded part: all that a report needs a GPU for.

    Args:
        dataset: as prepared.
        training: its folder, finished.
        device: to compute on.
        model_name: whose champion is asked; None: nobody's.
        cache: folder for shrunk images.
        log: told why the champion could not be asked; the report asks it then.
    """
    config = model_config(training)
    (training / CHAMPION).unlink(missing_ok=True)
    model = load_model(training / "best.pt", config)
    answers = answer(model, config, graded_samples(dataset, config["classes"]), device, cache=cache)
    write_answers(answers, dataset, training / ANSWERS)
    if model_name is None:
        return
    try:
        theirs = promotion.ask_champion(model_name, answers, device, cache=cache)
    except TrainyardError as exc:  # for example, MLflow is away: that must neither lose a training nor hold its slot
        log(f"the champion is left to the report: {exc}")
        return
    if theirs is not None:
        theirs.keep(training / CHAMPION)


def model_config(training: Path) -> dict[str, Any]:
    """Return the configuration of the model of a training that has ended."""
    config: dict[str, Any] = json.loads((training / "config.json").read_text())
    return config


def log_training(training: Path, tracker: Tracker) -> None:
    """Give MLflow the files of a training that has ended."""
    for name, folder in {
        "best.pt": "weights",
        "last.pt": "weights",
        "history.csv": "figures",
        "seen_digests.json": "dataset",
    }.items():
        tracker.artifact(training / name, folder)
    tracker.text((training / "config.json").read_text(), promotion.CONFIG)
    if (training / "epochs").is_dir():
        tracker.artifact(training / "epochs", "weights/epochs")


def grade_and_log(
    dataset: Path,
    training: Path,
    tracker: Tracker,
    params: EvaluateParams,
    *,
    model_name: str,
    cache: Path,
    log: Callable[[str], None],
) -> tuple[TestReport, Decision | None]:
    """Grade the answers kept, give MLflow the metrics, images and the model, and decide who is champion."""
    part = graded_subset(dataset)
    if part != "test":
        log("the data has no test part: graded on val, which the best epoch was chosen on, so the metrics are too good")
    tracker.tag("graded_on", part)
    config, history = model_config(training), read_history(training / "history.csv")
    answers = read_answers(training / ANSWERS, dataset)
    report = report_on(answers, dataset, config["classes"], params)
    write_images(report, history, dataset, training / "report")
    best = max(history, key=lambda row: (row["val_acc"], -row["val_loss"]))
    tracker.artifact(training / "report", "report")
    _log_grades(tracker, report, answers, dataset, int(best["epoch"]))

    def register() -> Decision | None:
        model_uri = _log_model(tracker, training, answers.paths[0], config, int(best["epoch"]))
        if not params.register_model:
            return None
        tracker.flush()  # a later comparison reads the weights from MLflow
        tags = {"accuracy_test": f"{report.grades.accuracy:.4f}", "architecture": config["model"]}
        version = registry.register(model_name, tracker.run_id, model_uri, tags=tags)
        challenger = promotion.Challenger(model_name, version, answers, config)
        known = read_champion_answers(training / CHAMPION)
        decision = promotion.decide_promotion(challenger, params, known, torch.device("cpu"), cache=cache)
        tracker.tag("model_version", f"{model_name} {version}")
        tracker.tag("decision", decision.reason)
        return decision

    return report, tracker.unless_away(register)


def _log_grades(tracker: Tracker, report: TestReport, answers: Answers, dataset: Path, epoch: int) -> None:
    """Log the metrics of the test at the epoch of the best weights, and what was graded on."""
    metrics = report_metrics(report)
    tracker.metrics({key: metrics[name] for name, key in TEST_KEYS.items()}, epoch)
    source, digest = dataset / graded_subset(dataset), joint_digest(answers.digests)
    tracker.input(name_of(dataset), str(source), digest, context="testing", profile={"images": len(answers.paths)})


def _log_model(tracker: Tracker, training: Path, image: Path, config: Mapping[str, Any], epoch: int) -> str:
    """Log the best weights as a model that MLflow serves, with an image to try it on; return its address."""
    example = encode_jpeg(read_rgb(image, min_side=config["image_size"]), 95)
    served = {key: config[key] for key in ("model", "classes", "image_size", "mean", "std")}
    return log_classifier(tracker.run_id, training / "best.pt", served, example, step=epoch)


def joint_digest(digests: list[str]) -> str:
    """Return one digest over the digests of files, whatever their order."""
    return hashlib.blake2b("".join(sorted(digests)).encode(), digest_size=16).hexdigest()


def copy_results(training: Path, save_path: Path) -> None:
    """Copy weights, configuration and report to the folder the user named."""
    with storage_errors(save_path):
        save_path.mkdir(parents=True, exist_ok=True)
        for name in ("best.pt", "last.pt", "config.json", "history.csv"):
            copy_whole(training / name, save_path / name)
        shutil.copytree(training / "report", save_path / "report", copy_function=copy_whole, dirs_exist_ok=True)


def summary(report: TestReport, decision: Decision | None, architecture: str, url: str) -> str:
    """Return the markdown summary of a run for its Prefect page."""
    g = report.grades
    lines = [
        f"# {architecture}: {g.accuracy:.1%} of {int(report.confusion.sum())} test images right",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {_shown(value)} |" for name, value in report_metrics(report).items()),
        "",
        "| class | precision | recall | F1 | images |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {_shown(row.precision)} | {_shown(row.recall)} | {_shown(row.f1)} | {row.support} |"
            for name, row in report.per_class.items()
        ),
        "",
    ]
    if decision is not None:
        lines += [
            ("**New champion.** " if decision.promote else "**The champion stays.** ") + decision.reason,
            "",
        ]
    return "\n".join([*lines, f"Images, weights and curves: {url}", ""])


def _shown(value: float | int | None) -> str:
    if value is None:
        return "null"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
