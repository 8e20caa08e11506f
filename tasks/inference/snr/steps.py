"""Prefect tasks of the benchmark over signal-to-noise ratios."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from tasks.base.workspace import allowed_path, cache_dir, read_step_info, storage_errors, write_json
from tasks.classification.preparation_steps import fill
from tasks.inference.snr.params import SnrParams, SnrTrackParams
from tasks.run import mlflow_run, run_log, step_context
from tasks.run.display import bars
from tasks.run.prefect_page import Page, show_link, show_markdown
from tasks.run.run_log import logger
from tasks.run.step_context import step_dir
from tasks.signals.params import MixParams, SpectrogramParams
from tasks.tracking.mlflow_names import as_name

if TYPE_CHECKING:
    from tasks.inference.snr.benchmark import SnrGrade, SnrSet
    from tasks.inference.weights import ModelFiles
    from tasks.tracking.tracker import Tracker

STAGE, MODELS, MIXED = "snr", "models", "mixed"
_LABELLED = re.compile(r"(?P<label>[\w.-]+)=(?P<weights>.+)", re.ASCII)
_FREE = {"benchmark.device", "benchmark.batch_size"}


def name_benchmark() -> str:
    """Return the name of a run: the one in the parameters, else the run's own, else that of its data."""
    return step_context.name_asked_for() or f"snr-{Path(flow_run.parameters['data']).name}"


@task(task_run_name="models")
def find_models(params: SnrParams) -> dict[str, "ModelFiles"]:
    """Return the models by their labels, files of MLflow fetched, each held against its classes.

    Raises:
        WeightsError: there is no such model, or its head does not fit its classes.
        ConfigError: two have the same label, or a path leads outside the allowed roots.
    """
    from tasks.inference.params import PredictParams
    from tasks.inference.stored import find_model
    from tasks.inference.weights import check_head

    found: dict[str, ModelFiles] = {}
    for number, weights in enumerate(params.weights, 1):
        match = _LABELLED.fullmatch(weights)
        address = match["weights"] if match else weights
        folder = step_dir(None, MODELS) / str(number)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        files = find_model(PredictParams(weights=_file_of(address)), folder)
        check_head(files)
        found[_label(match["label"] if match else None, files, found)] = files
    return found


def _file_of(address: str) -> str:
    """Return the address; for the folder of a training, that of its best weights."""
    return (
        str(Path(address) / "best.pt")
        if not re.match(r"(runs|models):", address) and Path(address).is_dir()
        else address
    )


def _label(given: str | None, files: "ModelFiles", taken: Mapping[str, object]) -> str:
    """Return what a model is called in tables, images and names of metrics; no two are called alike."""
    name = files.name if files.version is None else f"{files.name}-{files.version}"
    if files.weights.name == files.name:  # a file on disk: best.pt says nothing
        folder = files.weights.resolve().parent
        run = folder.parent.name[:8] if folder.name == "training" else folder.name
        name = f"{files.config['model']}-{run}"
    label = base = re.sub(r"[^A-Za-z0-9_.-]+", "-", given or name)
    number = 2
    while label in taken:
        label, number = f"{base}-{number}", number + 1
    return label


@task(task_run_name="mix")
def mix_noise(data: Path, mix: MixParams, spectrogram: SpectrogramParams) -> Path:
    """Mix clean recordings with noise and draw them; return the folder of <snr>dB/<class>/<image>."""
    from tasks.inference.snr.noisy_spectrograms import mixing

    source = allowed_path(data)
    if mix.noise is not None:
        allowed_path(mix.noise)
    recorded = {"mix": mix.model_dump(mode="json"), "spectrogram": spectrogram.model_dump(mode="json")}
    target, report = fill(MIXED, source, None, lambda folder: mixing(source, folder, mix, spectrogram), recorded)
    if report is not None:
        for note in report.notes:
            logger().warning("%s", note)
        n_images = report.n_frames * len(mix.snrs_db)
        logger().info("%d frames of %d recordings: %d images", report.n_frames, report.n_recordings, n_images)
    return target


@task(task_run_name="grade")
def grade_models(
    images: Path, models: dict[str, "ModelFiles"], params: SnrParams, track: SnrTrackParams, mixed: bool
) -> str | None:
    """Let every model answer at every SNR; return the id of the MLflow run, if it has one."""
    from tasks.inference.snr.benchmark import check_classes, find_snr_sets, snr_markdown

    root = allowed_path(images)
    sets = find_snr_sets(root)
    for label, files in models.items():
        check_classes(sets, files.config["classes"], label)
    made = {
        key: value for key, value in read_step_info(root).items() if mixed and key in {"data", "mix", "spectrogram"}
    }
    recorded = {"data": str(root), **made, "benchmark": params.model_dump(mode="json"), "models": _about(models)}
    folder = step_dir(None, STAGE)
    with mlflow_run.open_mlflow_run(
        folder, recorded, params.device, track.experiment, name_benchmark(), free=_FREE, last=True
    ) as (
        tracker,
        device,
        log,
    ):
        show_link("mlflow-run", tracker.url, "Curves, tables and metrics in MLflow")
        grades = _answer_all(sets, models, params, device, tracker=tracker, log=log)
        _write(grades, models, folder / "report", tracker)
        text = snr_markdown(grades, tracker.url)
        show_markdown("snr", text, "Accuracy at every signal-to-noise ratio")
        tracker.tag("mlflow.note.content", text)
        log.info("written to %s", folder / "report")
    return tracker.known_id


def _about(models: Mapping[str, "ModelFiles"]) -> dict[str, Any]:
    return {
        label: {"name": files.name, "version": files.version, "architecture": files.config["model"]}
        for label, files in models.items()
    }


def _answer_all(
    sets: "Sequence[SnrSet]",
    models: Mapping[str, "ModelFiles"],
    params: SnrParams,
    device: Any,
    *,
    tracker: "Tracker",
    log: run_log.Logger,
) -> "list[SnrGrade]":
    """Return the grades of all models, each logged as it is known."""
    from tasks.inference.snr.benchmark import grade_sets
    from tasks.inference.weights import load

    by_snr = {one.snr_db: [other for other in sets if other.snr_db == one.snr_db] for one in sets}
    total = len(models) * len(by_snr)
    grades: list[SnrGrade] = []
    reporter = step_context.ProgressReporter("ratio")
    with Page("snr", "Grading") as page, bars() as shown:
        for label, files in models.items():
            model = load(files, device)
            for snr_db, group in by_snr.items():
                found = grade_sets(
                    model, label, files.config, group, device, cache=cache_dir("."), batch_size=params.batch_size
                )
                _log(found, len(models) > 1, tracker)
                log.info("%s at %g dB: accuracy %.2f %%", label, snr_db, 100 * found[-1].accuracy)
                grades += found
                done = len({(one.model, one.snr_db) for one in grades})
                page.progress(done / total)
                page.row({"model": label, "snr_db": snr_db, "accuracy": round(found[-1].accuracy, 5)})
                shown.move("snr", done, total, label)
                reporter.report(done, total)
    return grades


def _log(grades: "Sequence[SnrGrade]", several: bool, tracker: "Tracker") -> None:
    """Log accuracy and macro F1 with the SNR in dB as their step, which is a whole number in MLflow."""
    for one in grades:
        if one.snr_db != round(one.snr_db):
            continue  # it stands in snr.csv
        by_map = [as_name(one.colour_map)] if one.colour_map else []
        curve = "/".join(["snr", *([one.model] if several else []), *by_map])
        tracker.metrics({f"accuracy/{curve}": one.accuracy, f"f1_macro/{curve}": one.f1_macro}, round(one.snr_db))


def _write(grades: "Sequence[SnrGrade]", models: Mapping[str, "ModelFiles"], target: Path, tracker: "Tracker") -> None:
    """Write tables and images, and give them and the headline metrics to MLflow."""
    from tasks.images.figures import save
    from tasks.inference.snr.benchmark import curves, headline, write_tables
    from tasks.inference.snr.plots import figures_of

    classes = {label: list(files.config["classes"]) for label, files in models.items()}
    write_tables(grades, classes, target)
    for name, figure in figures_of(grades, classes).items():
        save(figure, target / name)
    found = {name: headline(curve) for name, curve in curves(grades).items()}
    write_json(target / "headline.json", found)
    for name, values in found.items():
        key = as_name(name.replace(", ", "-"))
        tracker.metrics({f"headline/{key}.{what}": value for what, value in values.items()}, 0)
    tracker.artifact(target, "snr")
