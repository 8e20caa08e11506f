"""From a folder of classes to an evaluated model: the pipeline and its two halves."""

from pathlib import Path

from prefect import flow

from flows.halves import half
from gpu_pools.occupy import on_device, refuse_if_taken
from gpu_pools.queues import Queue, device_queue
from tasks import shell
from tasks.classification import steps
from tasks.classification.params import (
    AugmentParams,
    DataSource,
    EvaluateParams,
    SplitParams,
    TrackParams,
    TrainParams,
)


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
    split_dir = steps.split(data, split, run)
    return steps.augment(split_dir, augment, run) if augment.enabled else split_dir


@flow(name="train_classifier", flow_run_name=steps.name_training)
def train_classifier(
    dataset: Path,
    train: TrainParams = TrainParams(),
    evaluate: EvaluateParams = EvaluateParams(),
    track: TrackParams = TrackParams(),
    run: str | None = None,
) -> str:
    """Train a model on a prepared dataset, grade it on the test part, and register it.

    Args:
        dataset: as `prepare_dataset` leaves it.
        train: what to fit, on what device, and for how long.
        evaluate: how it is graded, and when it takes over.
        track: under which names it is found in MLflow.
        run: folder of the run to go on with; empty: this run's own.

    Returns:
        The id of the MLflow run.
    """
    with on_device(train.device, "training"):
        training = steps.train(dataset, train, evaluate, track, run)
        return steps.evaluate(dataset, training, train, evaluate, track)


@flow(name="classification", flow_run_name=steps.name_training)
def classification(
    data: Path | None = None,
    split: SplitParams = SplitParams(),
    augment: AugmentParams = AugmentParams(),
    train: TrainParams = TrainParams(),
    evaluate: EvaluateParams = EvaluateParams(),
    track: TrackParams = TrackParams(),
) -> str:
    """Split, augment, train and evaluate a folder of classes.

    Args:
        data: a folder of class folders, or of train/, val/ and test/; empty: train.train_path and train.val_path.
        split: how the parts are cut.
        augment: which altered copies are made.
        train: what to fit, on what device, and for how long.
        evaluate: how it is graded, and when it takes over.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run.
    """
    refuse_if_taken(train.device, "training")
    source = steps.check_start(data, train)
    run = shell.run_key()
    half(prepare_dataset, Queue("cpu", "preparation"), data=source, split=split, augment=augment, run=run)
    training = {"dataset": steps.prepared(augment, run), "train": train, "evaluate": evaluate, "track": track}
    half(train_classifier, device_queue(train.device, "training"), **training, run=run)
    return shell.mlflow_run(run)
