"""The Prefect tasks of the recognition of parts."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import deployment, flow_run

from gpu_pools.placement.disk import check_fits
from tasks.base.errors import ConfigError, StopAsked
from tasks.base.workspace import allowed_path, cache_dir, read_step_info, run_dir, staged, write_step_info
from tasks.recognition.dataset import name_of
from tasks.recognition.params import (
    DETECTOR_FREE_TO_CHANGE,
    INDEX_FREE_TO_CHANGE,
    AddParams,
    DetectorParams,
    IndexParams,
    MethodParams,
    RecognitionTrackParams,
    RenderParams,
)
from tasks.recognition.resume_point import DETECTOR, INDEX, RENDERED
from tasks.run import mlflow_run, step_context
from tasks.run.display import bars
from tasks.run.mlflow_run import is_tracking_error
from tasks.run.postponed import settle_postponed
from tasks.run.prefect_page import Page, show_link, show_markdown
from tasks.run.resume_point import FINISHED
from tasks.run.run_log import logger
from tasks.run.step_context import now_ms, step_dir
from tasks.run.stop_request import exit_for_resume, stop_asked
from tasks.tracking.mlflow_names import as_name

if TYPE_CHECKING:
    from tasks.recognition.render.rendering import RenderReport

ADDITION = "addition"
_EXTRA = ("embreex", "faiss", "faster_coco_eval", "manifold3d", "onnx", "onnxruntime", "torchmetrics", "trimesh")

NEEDED_FIRST = ("numpy", "trimesh", "numba", "tasks.recognition.render.rendering")
"""Imported by the first steps, the slowest of all they do: a run that waits for its server uses the time."""


def name_recognition() -> str:
    """Return the name of a run: the one in the parameters, else the run's own, else that of the folder of parts."""
    return _named("recognise")


def name_rendering() -> str:
    """Return the name of a rendering."""
    return _named("render")


def name_detector() -> str:
    """Return the name of the training of a detector."""
    return _called(DETECTOR)


def name_index() -> str:
    """Return the name of the training of an index."""
    return _called(INDEX)


def name_report() -> str:
    """Return the name of a report: that of its pipeline."""
    return f"{_trained()}-report"


def name_addition() -> str:
    """Return the name of the addition of parts to an index."""
    return _named("add")


def _named(verb: str) -> str:
    values = flow_run.parameters
    data = values.get("data") or values.get("dataset")
    return step_context.name_asked_for() or f"{verb}-{Path(data).name if data else 'parts'}"


def _trained() -> str:
    """Return what a training is called after: the name given, else the folder of the parts."""
    return step_context.name_asked_for() or name_of(Path(flow_run.parameters["dataset"]))


def rendered(run: str) -> Path:
    """Return the folder that the rendering of a run leaves for its trainings."""
    return run_dir(run) / RENDERED


def mlflow_run_ids(run: str, methods: MethodParams) -> list[str | None]:
    """Return the ids of the MLflow runs of a run, of its detector, then of its index; None: MLflow was away."""
    return [mlflow_run.mlflow_run_id(run, method) for method in _chosen(methods)]


def _chosen(methods: MethodParams) -> list[str]:
    return [name for name, wanted in ((DETECTOR, methods.detector), (INDEX, methods.index)) if wanted]


def devices_of(methods: MethodParams, detector: DetectorParams, index: IndexParams) -> dict[str, int]:
    """Return the devices that the chosen methods are trained on, and the most that one of them needs at once.

    Raises:
        ConfigError: two for a run in a person's own process, which CUDA binds to the first.
    """
    asked = {DETECTOR: (detector.device, detector.n_devices), INDEX: (index.device, index.n_devices)}
    chosen = sorted({asked[name] for name in _chosen(methods)})
    if len(chosen) > 1 and deployment.id is None:
        said = " and ".join(f"{name}.device {asked[name][0]}{_times(asked[name][1])}" for name in (DETECTOR, INDEX))
        raise ConfigError(
            f"found {said}: a process keeps to its devices, need the same for both, or `yard submit`, where each has a "
            "run of its own"
        )
    return dict(chosen)  # in their order: of two numbers for one device, the larger one


def _times(n_devices: int) -> str:
    return f" (n_devices {n_devices})" if n_devices > 1 else ""


def _called(method: str) -> str:
    """Return the name of the training of a method; one that starts again is called so already."""
    return _trained().removesuffix(f"-{method}") + f"-{method}"


@task(task_run_name="check")
def check_start(
    data: Path, methods: MethodParams, render: RenderParams, detector: DetectorParams, index: IndexParams
) -> Path:
    """Return where the meshes are, after a look at what would fail only later.

    Raises:
        ConfigError: a path leads outside the allowed roots, or the packages are not installed.
        DatasetError: there is no mesh.
    """
    check_packages()
    from tasks.recognition.meshes.parts import find_meshes

    paths = [render.backgrounds, render.distractors]
    if methods.detector:
        paths += [detector.weight_path, detector.network_folder, detector.real_images]
    if methods.index:
        paths += [index.weight_path, index.backbone_folder]
    for path in paths:
        if path is not None and not allowed_path(path).exists():
            raise ConfigError(f"found nothing at {path}")
    source = allowed_path(data)
    logger().info("%s: %d meshes", source.name, len(find_meshes(source)))
    return source


def check_packages() -> None:
    """Refuse a run for which packages are missing.

    Raises:
        ConfigError: names them, and what installs them.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ConfigError(f"found no {', '.join(missing)}, which parts need: `pip install 'trainyard[parts]'`")


@task(task_run_name="render")
def render(data: Path, params: RenderParams, run: str | None) -> Path:
    """Render views and scenes; return their folder."""
    check_packages()
    from tasks.recognition.disk_need import rendering_need
    from tasks.recognition.meshes.parts import find_meshes
    from tasks.recognition.render.rendering import rendering

    target = step_dir(run, RENDERED)
    if not target.is_dir():  # a restart finds the stage whole or not at all
        need = rendering_need(len(find_meshes(allowed_path(data))), params)
        logger().info("%s", check_fits(need, target))
        with staged(target) as folder, bars() as shown:
            report = shown.watch("render", rendering(allowed_path(data), folder, params))
            write_step_info(folder, {"data": data, "render": params.model_dump(mode="json")})
        for note in report.notes:
            logger().warning("%s", note)
        logger().info("%d parts, %d views, %d scenes", len(report.parts), *counted(report))
        show_markdown("parts", parts_markdown(report), "The parts, and what was mended in their meshes")
    return target


def counted(report: "RenderReport") -> tuple[int, int]:
    """Return how many views and how many scenes there are."""
    return sum(report.n_views.values()), sum(report.n_scenes.values())


def parts_markdown(report: "RenderReport") -> str:
    """Return the table of parts for the run's page, and what was strange about them."""
    n_views, n_scenes = counted(report)
    lines = [f"# {len(report.parts)} parts, {n_views} views, {n_scenes} scenes", ""]
    lines += ["| part | file | faces | bodies | closed | size |", "|---|---|---|---|---|---|"]
    for part in report.parts:
        size = " x ".join(f"{side:.4g}" for side in part["size"])
        closed = "yes" if part["watertight"] else "no"
        cells = part["name"], part["file"], str(part["n_faces"]), str(part["n_bodies"]), closed, size
        lines.append(f"| {' | '.join(cells)} |")
    if report.notes:
        lines += ["", "Noticed:", "", *(f"- {note}" for note in report.notes)]
    return "\n".join(lines)


def _open(folder: Path, dataset: Path, params: DetectorParams | IndexParams, track: RecognitionTrackParams) -> Any:
    """Hold the MLflow run of a training, its device and its log file for a block."""
    recorded: dict[str, Any] = {
        "dataset": str(dataset),
        **read_step_info(dataset),
        folder.name: params.model_dump(mode="json"),
    }
    names = DETECTOR_FREE_TO_CHANGE if isinstance(params, DetectorParams) else INDEX_FREE_TO_CHANGE
    free = {f"{folder.name}.{name}" for name in names}
    name = _called(folder.name)
    return mlflow_run.open_mlflow_run(folder, recorded, params.device, track.experiment, name, free=free, last=False)


@task(task_run_name="train-{params.network}")
def fit_detector(dataset: Path, params: DetectorParams, track: RecognitionTrackParams, run: str | None) -> Path:
    """Train the detector, every epoch going to MLflow as it happens; return the folder."""
    check_packages()
    from tasks.recognition.detector.recorder import TABLE_COLUMNS, DetectorRecorder
    from tasks.recognition.detector.training.session import DetectorSession
    from tasks.recognition.detector.work import keep_detections

    keep = partial(keep_detections, model_name=f"{track.experiment}-{DETECTOR}" if params.register_model else None)
    method = _Method(DETECTOR, DetectorSession, DetectorRecorder, TABLE_COLUMNS, keep)
    return _train(method, dataset, params, track, run)


@task(task_run_name="train-{params.backbone}")
def fit_index(dataset: Path, params: IndexParams, track: RecognitionTrackParams, run: str | None) -> Path:
    """Train the embedding and make the index, every epoch going to MLflow as it happens; return the folder."""
    check_packages()
    from tasks.recognition.index.steps import TABLE_COLUMNS, IndexRecorder, build_index
    from tasks.recognition.index.training.session import IndexSession

    method = _Method(INDEX, IndexSession, IndexRecorder, TABLE_COLUMNS, build_index)
    return _train(method, dataset, params, track, run)


@dataclass(frozen=True, slots=True)
class _Method:
    """How one of the two is trained.

    Attributes:
        name: of its folder and its page.
        session, recorder: classes of the training.
        columns: of the page's table.
        keep: what is done, with the session, the bars and the log, before the device is given back.
    """

    name: str
    session: Callable[..., Any]
    recorder: Callable[..., Any]
    columns: Sequence[str]
    keep: Callable[..., None]


def _train(
    method: _Method,
    dataset: Path,
    params: DetectorParams | IndexParams,
    track: RecognitionTrackParams,
    run: str | None,
) -> Path:
    """Train in the folder of a method, whatever an earlier attempt left there; return the folder."""
    folder = step_dir(run, method.name)
    try:
        with _open(folder, dataset, params, track) as (tracker, device, log):
            show_link(f"mlflow-run-{method.name}", tracker.url, "Curves, metrics and files in MLflow")
            data, cache = allowed_path(dataset), cache_dir(".")
            session = method.session(data, folder, params, device, cache=cache, clock_ms=now_ms, stop_asked=stop_asked)
            page_of = Page(f"training-{method.name}", f"Training of the {method.name}", columns=method.columns)
            with page_of as page, bars() as shown:
                method.recorder(session, tracker, page, shown, log).run()
                method.keep(session, shown, log)
    except StopAsked as exc:
        logger().info("%s", exc)
        exit_for_resume(exc)
    return folder


# Retried, because grading can be repeated and only MLflow makes it fail for a while.
@task(task_run_name="report", retries=2, retry_delay_seconds=30, retry_condition_fn=is_tracking_error)
def report(
    dataset: Path,
    run: str,
    methods: MethodParams,
    detector: DetectorParams,
    index: IndexParams,
    track: RecognitionTrackParams,
) -> list[str | None]:
    """Grade what was trained, register it, decide who is champion; return the ids of the MLflow runs, if they have any.

    Where MLflow is away, what needs its answer is postponed.
    """
    data, texts, postponed = allowed_path(dataset), [], []
    for method in _chosen(methods):
        training = step_context.finished_training(run, FINISHED, method)
        with mlflow_run.reopen_mlflow_run(training) as (tracker, log):
            show_link(f"mlflow-run-{method}", tracker.url, "Curves, metrics and files in MLflow")
            name = f"{track.experiment}-{method}"
            if method == DETECTOR:
                from tasks.recognition.detector.work import report_detector

                text = report_detector(data, training, detector, tracker, log, model_name=name)
            else:
                from tasks.recognition.index.steps import report as report_index

                text = report_index(data, training, index, tracker, log, model_name=name)
            text += mlflow_run.slot_line(tracker)
            tracker.tag("mlflow.note.content", text)
            log.info("MLflow: %s", tracker.url)
        texts.append(text)
        postponed += [tracker.postponed] if tracker.postponed else []
    params = {"dataset": dataset, "run": run, "methods": methods, "detector": detector, "index": index, "track": track}
    texts.append(settle_postponed(run, " ".join(postponed), "report_recognition", params, logger()))
    show_markdown("summary", "\n\n".join(texts), "The results on the test part")
    return mlflow_run_ids(run, methods)


@task(task_run_name="add")
def add_part(data: Path, index: str, params: AddParams, track: RecognitionTrackParams) -> str | None:
    """Add parts to an index, without training; return the id of the MLflow run."""
    check_packages()
    from tasks.recognition.addition import add_meshes, fetch_index, register_addition
    from tasks.recognition.meshes.parts import read_parts

    meshes, folder = allowed_path(data), step_dir(None, ADDITION)
    read_parts(meshes)  # what is wrong with them is told before anything is fetched
    recorded = {"data": str(data), "index": index, "add": params.model_dump(mode="json")}
    where = folder, recorded, params.device, track.experiment, name_addition()
    with mlflow_run.open_mlflow_run(*where, free={"add.device", "add.n_workers"}, last=True) as (tracker, device, log):
        show_link("mlflow-run", tracker.url, "The index in MLflow")
        with tempfile.TemporaryDirectory(prefix="trainyard-index-") as fetched, bars() as shown:
            source = fetch_index(index, Path(fetched))
            addition = add_meshes(meshes, source, folder, params, device, shown)
            tracker.metrics({f"recall/{as_name(part)}": share for part, share in addition.recall_1.items()}, 0)
            register_addition(source, folder, tracker, params, f"{track.experiment}-{INDEX}", log.info)
        log.info("%s", addition.sentence)
        text = f"# {len(addition.added)} part(s) added\n\n{addition.sentence}\n{mlflow_run.slot_line(tracker)}"
        tracker.tag("mlflow.note.content", text)
        show_markdown("summary", text, "What was added")
        log.info("MLflow: %s", tracker.url)
    return tracker.known_id
