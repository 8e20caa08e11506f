"""The Prefect tasks of the inference pipeline."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from gpu_pools.slots.slot_meter import batch_done
from gpu_pools.stopping import look
from tasks.base.errors import DatasetError, TrackingError
from tasks.base.progress import finish
from tasks.base.workspace import allowed_path, run_dir, storage_errors
from tasks.images.params import PrepareParams
from tasks.inference.params import DetectParams, PredictParams, PredictTrackParams
from tasks.run import mlflow_run, step_context
from tasks.run.display import bars
from tasks.run.prefect_page import Page, show_link, show_markdown, show_table
from tasks.run.run_log import Logger
from tasks.run.step_context import run_key, step_dir
from tasks.signals.params import SpectrogramParams
from tasks.tracking.mlflow_names import as_name

if TYPE_CHECKING:
    import torch

    from tasks.inference.answering import Answering
    from tasks.inference.predictor import Answer
    from tasks.inference.result import Result
    from tasks.inference.sources import Source
    from tasks.inference.weights import ModelFiles
    from tasks.tracking.tracker import Tracker

STAGE = "prediction"
_FREE = {"predict.device", "predict.n_workers", "predict.batch_size"}
_ROWS_SHOWN = 100


def name_prediction() -> str:
    """Return the name of a prediction: the one in the parameters, else the run's own, else that of its source."""
    return step_context.name_asked_for() or f"predict-{Path(flow_run.parameters['data']).name}"


def prediction_run_id(run: str) -> str | None:
    """Return the id of the MLflow run of a prediction that has ended; None: MLflow was away all along.

    Raises:
        TrackingError: its folder is not on this machine.
    """
    from tasks.tracking.journal import read_card

    card = read_card(run_dir(run) / STAGE)
    if card is None:
        raise TrackingError(f"found no prediction in {run_dir(run) / STAGE}: it ran on another host")
    return card.run_id


def with_folders(
    sources: Sequence[Path], params: PredictParams, detect: DetectParams
) -> Iterator[tuple[Path, PredictParams]]:
    """Yield each of several sources with its parameters: the copies of its tables go to a folder of its own."""
    from tasks.inference.regions import from_two_stages

    folder = from_two_stages(params, detect)[0].save_path
    for number, source in enumerate(sources, 1):
        own = {"save_path": folder / f"{number:03}_{as_name(source.name)}"} if folder else {}
        yield source, params.model_copy(update=own)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for what the run needs while it lasts; nothing of it is left, however the block ends.

    Of a killed process the worker removes it (`gpu_pools.process.run_setup.clean_up`), the run's next attempt, or
    housekeeping.
    """
    parent = run_dir(run_key()) / "tmp"
    folder = parent / "predict"
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if Path(tempfile.gettempdir()) != parent and not any(parent.iterdir()):
            parent.rmdir()


@task(task_run_name="predict")
def predict(
    data: Path,
    params: PredictParams,
    prepare: PrepareParams,
    spectrogram: SpectrogramParams,
    detect: DetectParams,
    track: PredictTrackParams,
) -> str | None:
    """Name what is on every image of a source; return the id of the MLflow run, if it has one.

    Raises:
        DatasetError: there is no image, or none that can be used; the table names each with its reason then.
        WeightsError, ConfigError, StorageError, TrackingError: as their names say.
    """
    from tasks.base.memory import keep_freed_memory
    from tasks.images.files import n_cores
    from tasks.inference.answering import answering
    from tasks.inference.regions import from_two_stages
    from tasks.inference.sources import jobs, open_source
    from tasks.inference.stored import find_detector, find_model
    from tasks.inference.weights import CLASSIFIER, check_head
    from tasks.signals.spectrogram_tree import FRAMES_AT_ONCE

    source = open_source(data, spectrogram)  # what is wrong with it is told before anything is fetched
    params, detect = from_two_stages(params, detect)
    if params.save_path is not None:
        allowed_path(params.save_path)
    sections = {"predict": params, "prepare": prepare, "spectrogram": spectrogram, "detect": detect}
    recorded: dict[str, Any] = {name: section.model_dump(mode="json") for name, section in sections.items()}
    recorded |= {"data": str(data), "source": source.kind}
    where = step_dir(None, STAGE), recorded, params.device, track.experiment, name_prediction()
    with scratch() as folder:
        files = find_model(params, folder)
        regions = None if detect.weights is None else find_detector(detect.weights, folder)
        if files.kind == CLASSIFIER:
            check_head(files)
        with mlflow_run.open_mlflow_run(*where, free=_FREE, last=True) as (tracker, device, log):
            show_link("mlflow-run", tracker.url, "Table, images and metrics in MLflow")
            total = source.total(params.every_n)
            if source.timed and params.n_workers == 0:  # their images, and a recording's frames, are large
                params = params.model_copy(update={"n_workers": min(n_cores(), FRAMES_AT_ONCE)})
            keep_freed_memory()
            model = answering(files, regions, params, detect, device, total, log.info)
            todo = jobs(source, params.every_n, spectrogram, prepare, model.image_size)
            result = _collect(model.answers(todo), files, folder, total)
            _hand_on(result, _about(source, model, device, files, detect), folder, params, tracker, log)
            _check_any(result)
    return tracker.known_id


def _check_any(result: "Result") -> None:
    """Fail a run that could not use a single image, once its table is where people look for it."""
    s = result.summary
    if s.n_failed == s.n_images:
        why = s.errors[0] if s.errors else "the source held none"
        raise DatasetError(f"none of {s.n_images} image(s) could be used: {why}")


def _collect(batches: "Iterator[list[Answer]]", files: "ModelFiles", folder: Path, total: int) -> "Result":
    from tasks.inference.result import collecting, now_s

    with Page("prediction", "Prediction") as page, bars() as shown:
        work, reporter = collecting(batches, files, folder, total, now_s), step_context.ProgressReporter("image")

        def moved(done: int, total: int) -> None:
            batch_done()
            page.progress(done / max(1, total))
            look()
            shown.move("predict", done, total)
            reporter.report(done, total)

        return finish(work, moved)


def _about(
    source: "Source", model: "Answering", device: "torch.device", files: "ModelFiles", detect: DetectParams
) -> dict[str, Any]:
    return {
        "source": str(source.path),
        "kind": source.kind,
        "model": files.name if files.version is None else f"{files.name} {files.version}",
        "architecture": files.config["model"],
        "classes": list(files.config["classes"]),
        "image_size": files.config["image_size"],
        "temperature": files.config.get("temperature"),
        "model_kind": files.kind,
        "device": str(device),
        "precision": model.precision,
        "batch_pieces": model.n_pieces(),
        "detector": None if detect.weights is None else str(detect.weights),
    }


def _hand_on(
    result: "Result", about: dict[str, Any], folder: Path, params: PredictParams, tracker: "Tracker", log: Logger
) -> None:
    """Put the result where people look for it: the run's folder, MLflow, Prefect, and the folder they named."""
    from tasks.inference.result import (
        NOT_CALIBRATED,
        copy_out,
        lacks_temperature,
        markdown,
        move_in,
        write_result,
    )

    names = write_result(result, about, name_prediction(), folder)
    target = step_dir(None, STAGE)
    move_in(folder, names, target)
    for name in names:
        tracker.artifact(target / name, "prediction")
    s = result.summary
    tracker.metrics({"pictures/all": s.n_images, "pictures/failed": s.n_failed}, 0)
    tracker.metrics({"pictures/per_second": result.images_per_second}, 0)
    tracker.metrics({"pictures/empty": s.n_empty, "pictures/answers": s.n_answers}, 0)
    tracker.metrics({"probability/mean": result.summary.mean_probability}, 0)
    tracker.metrics({f"class/{as_name(name)}": count for name, count in s.counts.items()}, 0)
    for tag in ("model", "architecture", "precision"):
        tracker.tag(f"prediction.{tag}", str(about[tag]))
    tracker.tag("prediction.device", str(about["device"]))
    text = markdown(result, about, tracker.url) + mlflow_run.slot_line(tracker)
    tracker.tag("mlflow.note.content", text)
    show_markdown("summary", text, "What was found, and where the table is")
    counts = [{"class": name, "pictures": count} for name, count in s.counts.most_common(_ROWS_SHOWN)]
    show_table("classes", counts, "Images by class")
    for error in s.errors:
        log.warning("not usable: %s", error)
    if lacks_temperature(about):
        log.info("%s", NOT_CALIBRATED)
    log.info("%d images, %d not usable, %.1f a second", s.n_images, s.n_failed, result.images_per_second)
    if params.save_path is not None:
        copy_out(target, names, allowed_path(params.save_path))
    log.info("MLflow: %s", tracker.url)
