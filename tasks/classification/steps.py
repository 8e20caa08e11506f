"""The Prefect tasks of the classification pipeline."""

import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run, task_run

from gpu_pools.placement.disk import check_fits
from tasks.base.errors import ConfigError, StopAsked
from tasks.base.workspace import (
    allowed_path,
    cache_dir,
    read_step_info,
    run_dir,
    staged,
    storage_errors,
    write_step_info,
)
from tasks.classification.params import (
    FREE_TO_CHANGE,
    AugmentParams,
    DataSource,
    EvaluateParams,
    Part,
    SplitParams,
    TrackParams,
    TrainParams,
    data_source,
)
from tasks.classification.resume_point import AUGMENTED, SPLIT, TRAINING
from tasks.run import mlflow_run, step_context
from tasks.run.display import bars
from tasks.run.mlflow_run import is_tracking_error
from tasks.run.postponed import settle_postponed
from tasks.run.prefect_page import Page, show_link, show_markdown
from tasks.run.resume_point import FINISHED
from tasks.run.run_log import Logger, logger
from tasks.run.step_context import now_ms, step_dir
from tasks.run.stop_request import exit_for_resume, stop_asked

if TYPE_CHECKING:
    import torch

    from tasks.classification.data.split import SplitReport
    from tasks.tracking.tracker import Tracker

NEEDED_FIRST = (
    "numpy",
    "tasks.classification.data.split",
    "torch",
    *("sympy", "torch.distributed.fsdp", "torch._dynamo"),  # what torchvision imports, in pieces
    "torchvision",
    "tasks.classification.models",
)
"""Imported by the first steps, the slowest of all they do: a run that waits for its server uses the time."""


def name_training() -> str:
    """Return the name of a training run: the one in the parameters, else the run's own, else model and data."""
    values = flow_run.parameters
    train = values.get("train") or TrainParams()
    if name := step_context.name_asked_for():
        return name
    data = values.get("data") or _origin(values.get("dataset")) or train.train_path
    return f"{train.model}-{Path(data).name if data else 'data'}"


def name_report() -> str:
    """Return the name of a report: that of its training."""
    return step_context.name_asked_for() or mlflow_run.mlflow_run_name(str(flow_run.parameters["run"])) or "report"


def _origin(dataset: Path | None) -> Path | None:
    """Return the data a prepared dataset was made from: its own folder is called like that of any other run."""
    data = read_step_info(Path(dataset)).get("data", dataset) if dataset else None
    return Path(data["train"] if isinstance(data, dict) else data) if data else None


def name_preparation() -> str:
    """Return the name of a preparation run."""
    data = flow_run.parameters.get("data")
    return f"prepare-{Path(data).name}" if isinstance(data, (str, Path)) else "prepare"


def name_augmentation() -> str:
    """Return the name of the step that makes altered copies."""
    return "-".join(["augment", *task_run.parameters["params"].methods])


def prepared(params: AugmentParams, run: str) -> Path:
    """Return the folder that the preparation of a run leaves for its training."""
    return run_dir(run) / ("augmented" if params.enabled else "split")


def check_paths(train: TrainParams) -> None:
    """Refuse a training whose files lie outside the allowed roots.

    Raises:
        ConfigError: names the path.
    """
    if train.weight_path is not None:
        allowed_path(train.weight_path)
    if train.save_path is not None:
        target = allowed_path(train.save_path)
        with storage_errors(target):  # fails now, not after hours of training
            target.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=target).close()


def recorded(dataset: Path, train: TrainParams, evaluate: EvaluateParams) -> dict[str, Any]:
    """Return every parameter of a training, its preparation's included, for MLflow."""
    return {
        "dataset": str(dataset),
        **read_step_info(dataset),
        "train": train.model_dump(mode="json"),
        "evaluate": evaluate.model_dump(mode="json"),
    }


def open_training_run(
    folder: Path, parameters: dict[str, Any], train: TrainParams, track: TrackParams
) -> AbstractContextManager[tuple["Tracker", "torch.device", Logger]]:
    """Hold the MLflow run of a training, its device and its log file for a block."""
    free = {f"train.{name}" for name in FREE_TO_CHANGE}
    name = track.run_name or name_training()
    return mlflow_run.open_mlflow_run(folder, parameters, train.device, track.experiment, name, free=free, last=False)


def counted(counts: Mapping[Part, Mapping[str, int]]) -> str:
    """Return "70 train, 20 val, 10 test"."""
    return ", ".join(f"{sum(classes.values())} {part}" for part, classes in counts.items())


def split_markdown(report: "SplitReport") -> str:
    """Return the table of images per class and part, and what was left out."""
    parts = list(report.counts)
    lines = [f"# {report.n_images} images of {len(report.classes)} classes", ""]
    lines += [f"| class | {' | '.join(parts)} |", "|---" * (1 + len(parts)) + "|"]
    for name in report.classes:
        cells = " | ".join(str(report.counts[part].get(name, 0)) for part in parts)
        lines.append(f"| {name} | {cells} |")
    if report.bad:
        lines += ["", "Left out:", "", *(f"- {bad.path}: {bad.reason}" for bad in report.bad)]
    return "\n".join(lines)


@task
def check_start(data: Path | None, train: TrainParams) -> DataSource:
    """Return where the images are, after a look at what would fail only hours later.

    Raises:
        ConfigError: a path leads outside the allowed roots, or no data is named.
        WeightsError: the weights to start from cannot be had.
        StorageError: the checkpoints will not fit on the disk.
    """
    from tasks.classification.data.samples import check_num_classes, order_classes
    from tasks.classification.data.sources import find_sources
    from tasks.classification.training.disk_need import classifier_need
    from tasks.training.state_dicts import pretrained_state, read_state_dict

    try:
        source = data_source(data, train)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    check_paths(train)
    where = Path(source) if isinstance(source, (str, Path)) else source["train"]
    classes = sorted({image.label for image in find_sources(source).images})
    check_num_classes(train.num_classes, order_classes(classes, train.class_names, where), where)
    if train.weight_path is not None:
        read_state_dict(train.weight_path)
    elif train.pretrained:
        pretrained_state(train.model)
    folder = step_dir(None, TRAINING)
    if not folder.is_dir():  # started again: what there is so far took its part
        logger().info("%s", check_fits(classifier_need(train), folder))
    return source


def check_disk(data: DataSource, split: SplitParams, augment: AugmentParams, run: str | None) -> None:
    """Say how much of the disk a preparation will take, and refuse it where that is not free.

    Raises:
        StorageError: it is not; both numbers.
    """
    from tasks.classification.data.disk_need import preparation_need

    target = step_dir(run, SPLIT)
    if target.is_dir():  # started again: what there is so far took its part
        return
    logger().info("%s", check_fits(preparation_need(_allowed(data), split, augment, target), target))


def _allowed(data: DataSource) -> Path | dict[Part, Path]:
    return allowed_path(data) if isinstance(data, Path) else {part: allowed_path(path) for part, path in data.items()}


@task(task_run_name="split")
def split(data: DataSource, params: SplitParams, run: str | None) -> Path:
    """Split the classes into train, val and test; return the folder."""
    from tasks.classification.data.split import splitting

    source, target = _allowed(data), step_dir(run, SPLIT)
    if not target.is_dir():  # a restart finds the stage whole or not at all
        if params.group_by and params.group_by.lower().endswith(".csv"):
            allowed_path(Path(params.group_by))
        with staged(target) as folder, bars() as shown:
            report = shown.watch("split", splitting(source, folder, params))
            write_step_info(folder, {"data": source, "split": params.model_dump(mode="json")})
        for bad in report.bad:
            logger().warning("left out %s: %s", bad.path, bad.reason)
        logger().info("%d images of %d classes: %s", report.n_images, len(report.classes), counted(report.counts))
        show_markdown("split", split_markdown(report), "How the images were split")
    return target


@task(task_run_name=name_augmentation)
def augment(split_dir: Path, params: AugmentParams, run: str | None) -> Path:
    """Add the altered copies; return the folder of originals and copies."""
    from tasks.classification.data.augment import augmenting

    target = step_dir(run, AUGMENTED)
    if not target.is_dir():
        with staged(target) as folder, bars() as shown:
            report = shown.watch("augment", augmenting(split_dir, folder, params))
            write_step_info(folder, {**read_step_info(split_dir), "augment": params.model_dump(mode="json")})
        logger().info(
            "%d original and %d altered images by %s",
            report.original_images,
            report.augmented_images,
            ", ".join(report.methods_used),
        )
    return target


@task(task_run_name="train-{params.model}")
def train(dataset: Path, params: TrainParams, grading: EvaluateParams, track: TrackParams, run: str | None) -> Path:
    """Fit the model, every epoch going to MLflow as it happens, and keep what it answers; return the folder."""
    from tasks.classification.mlflow_logging import TABLE_COLUMNS, TrainingRecorder, keep_answers
    from tasks.classification.training.session import TrainingSession

    folder = step_dir(run, TRAINING)
    check_paths(params)
    try:
        with open_training_run(folder, recorded(dataset, params, grading), params, track) as (tracker, device, log):
            show_link("mlflow-run", tracker.url, "Curves, metrics and files in MLflow")
            data, cache = allowed_path(dataset), cache_dir(".")
            session = TrainingSession(data, folder, params, device, cache=cache, clock_ms=now_ms, stop_asked=stop_asked)
            with Page("training", "Training", columns=TABLE_COLUMNS) as page, bars() as shown:
                TrainingRecorder(session, tracker, page, shown, log).run()
            name = track.experiment if grading.register_model else None
            keep_answers(data, folder, device, model_name=name, cache=cache, log=log.warning)
    except StopAsked as exc:
        logger().info("%s", exc)
        exit_for_resume(exc)
    return folder


# Retried, because grading can be repeated and only MLflow makes it fail for a while.
@task(task_run_name="report", retries=2, retry_delay_seconds=30, retry_condition_fn=is_tracking_error)
def report(dataset: Path, run: str, params: EvaluateParams, track: TrackParams, save_path: Path | None) -> str | None:
    """Grade the best weights on the test part, decide who is champion; return the id of the MLflow run, if it has one.

    Where MLflow is away, what needs its answer is postponed.
    """
    from tasks.classification.mlflow_logging import copy_results, grade_and_log, log_training, model_config, summary

    training = step_context.finished_training(run, FINISHED)
    with mlflow_run.reopen_mlflow_run(training) as (tracker, log):
        show_link("mlflow-run", tracker.url, "Curves, metrics and files in MLflow")
        log_training(training, tracker)
        graded, decision = grade_and_log(
            allowed_path(dataset),
            training,
            tracker,
            params,
            model_name=track.experiment,
            cache=cache_dir("."),
            log=log.warning,
        )
        parameters = {"dataset": dataset, "run": run, "evaluate": params, "track": track, "save_path": save_path}
        later = settle_postponed(run, tracker.postponed, "report_classifier", parameters, log)
        text = summary(graded, decision, model_config(training)["model"], tracker.url)
        text += later + mlflow_run.slot_line(tracker)
        show_markdown("summary", text, "The result on the test part")
        tracker.tag("mlflow.note.content", text)
        log.info("test accuracy %.2f %%", 100 * graded.grades.accuracy)
        if save_path is not None:
            copy_results(training, allowed_path(save_path))
    log.info("MLflow: %s", tracker.url)
    return tracker.known_id
