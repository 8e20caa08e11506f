"""The classification pipeline and its three stages, from a folder of classes to an evaluated model."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.stages import hold_device, run_stage
from gpu_pools.placement.queues import Queue, device_queue
from gpu_pools.slots.local_slot import on_device, refuse_if_taken
from tasks.classification import steps
from tasks.classification.params import (
    AugmentParams,
    DataSource,
    EvaluateParams,
    SplitParams,
    TrackParams,
    TrainParams,
)
from tasks.run import mlflow_run, step_context


@flow(name="prepare_dataset", flow_run_name=steps.name_preparation)
def prepare_dataset(
    data: DataSource,
    split: SplitParams = SplitParams(),
    augment: AugmentParams = AugmentParams(),
    run: str | None = None,
) -> Path:
    """Split a folder of classes and add altered copies to the training part.

    Args:
        data: a folder of class folders, or of train/, val/ and test/; or the folder of each part by name.
        split: how the parts are cut.
        augment: which altered copies are made.
        run: folder of the run to go on with; empty: this run's own.

    Returns:
        The folder with train/, val/ and test/.
    """
    steps.check_disk(data, split, augment, run)
    split_dir = steps.split(data, split, run)
    return steps.augment(split_dir, augment, run) if augment.enabled else split_dir


@flow(name="train_classifier", flow_run_name=steps.name_training)
def train_classifier(
    dataset: Path,
    train: TrainParams = TrainParams(),
    evaluate: EvaluateParams = EvaluateParams(),
    track: TrackParams = TrackParams(),
    run: str | None = None,
    finish: bool = True,
) -> str | None:
    """Train a model on a prepared dataset, grade it on the test part, and register it.

    Args:
        dataset: as `prepare_dataset` leaves it.
        train: what to fit, on what device, and for how long.
        evaluate: how it is graded, and when it takes over.
        track: under which names it is found in MLflow.
        run: folder of the run to go on with; empty: this run's own.
        finish: off: no more than what needs the device; `report_classifier` does the rest.

    Returns:
        The id of the MLflow run; None where the rest is to follow, or MLflow was away all along.
    """
    with on_device(train.device, "training", train.n_devices):
        steps.train(dataset, train, evaluate, track, run)
        if not finish:
            return None
        return steps.report(dataset, run or step_context.run_key(), evaluate, track, train.save_path)


@flow(name="report_classifier", flow_run_name=steps.name_report)
def report_classifier(
    dataset: Path,
    run: str,
    evaluate: EvaluateParams = EvaluateParams(),
    track: TrackParams = TrackParams(),
    save_path: Path | None = None,
) -> str | None:
    """Grade and register a model that was trained; what needed a device is done.

    Args:
        dataset: that it was trained on.
        run: whose training it is.
        evaluate: how it is graded, and when it takes over.
        track: under which names it is found in MLflow.
        save_path: folder for copies of weights and report.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    return steps.report(dataset, run, evaluate, track, save_path)


@flow(name="classification", flow_run_name=steps.name_training)
def classification(
    data: Path | None = None,
    split: SplitParams = SplitParams(),
    augment: AugmentParams = AugmentParams(),
    train: TrainParams = TrainParams(),
    evaluate: EvaluateParams = EvaluateParams(),
    track: TrackParams = TrackParams(),
) -> str | None:
    """Split, augment, train and evaluate a folder of classes.

    Args:
        data: a folder of class folders, or of train/, val/ and test/; empty: train.train_path and train.val_path.
        split: how the parts are cut.
        augment: which altered copies are made.
        train: what to fit, on what device, and for how long.
        evaluate: how it is graded, and when it takes over.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    refuse_if_taken(train.device, "training", train.n_devices)
    source = steps.check_start(data, train)
    run = step_context.run_key()
    run_stage(prepare_dataset, Queue("cpu", "preparation"), data=source, split=split, augment=augment, run=run)
    shared: dict[str, Any] = {"dataset": steps.prepared(augment, run), "run": run, "evaluate": evaluate, "track": track}
    with hold_device(train_classifier, train.device, train.n_devices):
        run_stage(train_classifier, device_queue(train.device, "training"), **shared, train=train, finish=False)
        run_stage(report_classifier, Queue("cpu", "inference"), **shared, save_path=train.save_path, refusable=False)
    return mlflow_run.mlflow_run_id(run)
