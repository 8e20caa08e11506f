"""The Prefect tasks of the splatting pipeline."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from gpu_pools.placement.disk import check_fits, together
from gpu_pools.stopping import look
from tasks.base.errors import StopAsked
from tasks.base.progress import Note, Progress
from tasks.base.workspace import allowed_path, read_step_info, run_dir, write_json, write_step_info
from tasks.run import mlflow_run, step_context
from tasks.run.display import Bars, bars
from tasks.run.mlflow_run import is_tracking_error
from tasks.run.prefect_page import Page, show_link, show_markdown
from tasks.run.resume_point import FINISHED
from tasks.run.run_log import Logger, logger
from tasks.run.step_context import now_ms, step_dir
from tasks.run.stop_request import exit_for_resume, stop_asked, time_left_s
from tasks.splatting.params import (
    FREE_TO_CHANGE,
    ExportParams,
    FramesParams,
    PosesParams,
    SplatParams,
    SplatTrackParams,
)
from tasks.splatting.resume_point import FRAMES, FRAMES_TABLE, POSES, SCENE, TRAINING

if TYPE_CHECKING:
    import torch

    from tasks.splatting.fit.session import FitSession
    from tasks.splatting.render.rasterizer import Rasterizer
    from tasks.tracking.tracker import Tracker

REPORT, SPLAT, DRAWN = "report", "splat", "drawn"
NEEDED_FIRST = ("numpy", "cv2", "tasks.splatting.capture.inputs", "tasks.splatting.capture.frames")
"""Imported by the first steps: a run that waits for its server uses the time."""

# Of what is left of a time limit, and at most, set aside for what follows the fit.
_DRAWING_SHARE, _WHOLE_SHARE, _MOST_S = 0.18, 0.2, 600.0


def name_scene() -> str:
    """Return the name of a preparation run."""
    data = flow_run.parameters.get("data")
    return f"scene-{Path(data).stem}" if data else "scene"


def name_splat() -> str:
    """Return the name of a training run: the one in the parameters, else the run's own, else scene and preset."""
    values = flow_run.parameters
    train = values.get("train") or SplatParams()
    if name := step_context.name_asked_for():
        return name
    data = values.get("data") or read_step_info(Path(values["scene"])).get("data", values["scene"])
    return f"splat-{Path(data).stem}-{train.preset}"


def name_export() -> str:
    """Return the name of an export: that of its training."""
    return step_context.name_asked_for() or mlflow_run.mlflow_run_name(str(flow_run.parameters["run"])) or "export"


def scene_of(run: str) -> Path:
    """Return the folder that the preparation of a run leaves for its training."""
    return run_dir(run) / SCENE


def follow(events: Iterable[Any], shown: Bars, page: Page, log: Logger) -> Any:
    """Show every event of a preparation and return the last one, its report."""
    event: Any = None
    for event in events:
        if isinstance(event, Progress):
            shown.move(event.work, event.done, event.total)
            page.progress(event.done / max(1, event.total))
        elif isinstance(event, Note):
            log.warning(event.text)
        look()
        if stop_asked():  # each stage that is done is found again
            log.info("stopped, as asked")
            exit_for_resume()
    return event


@task(task_run_name="check")
def check_start(data: Path, frames: FramesParams, train: SplatParams) -> Path:
    """Return where the images are, after a look at what would fail only later.

    Raises:
        ConfigError: the path leads outside the allowed roots, or is neither a video nor a folder of images.
        StorageError: images and checkpoints will not fit on the disk.
    """
    from tasks.splatting.capture.disk_need import frames_need
    from tasks.splatting.capture.inputs import recognise
    from tasks.splatting.fit.disk_need import splat_need

    source, folder = allowed_path(data), step_dir(None, FRAMES)
    logger().info("%s: %s", source.name, recognise(source))
    if not folder.is_dir():  # started again: what there is so far took its part
        logger().info("%s", check_fits(together([frames_need(source, frames), splat_need(train)]), folder))
    return source


@task(task_run_name="frames")
def choose_frames(data: Path, params: FramesParams, run: str | None) -> Path:
    """Take images from a video or folder; return the folder with images/, or `data` where cameras are known."""
    from tasks.splatting.capture.disk_need import frames_need
    from tasks.splatting.capture.frame_table import read_table
    from tasks.splatting.capture.frames import extract_frames
    from tasks.splatting.capture.inputs import recognise

    source = allowed_path(data)
    if recognise(source) in {"colmap", "transforms"}:
        return source
    target = step_dir(run, FRAMES)
    if not (target / FRAMES_TABLE).is_file():
        logger().info("%s", check_fits(frames_need(source, params), target))
        with Page("frames", "Choice of images") as page, bars() as shown:
            follow(extract_frames(source, target, params), shown, page, logger())
    rows = read_table(target / FRAMES_TABLE)
    logger().info("%d images taken of %d looked at", sum(row.chosen for row in rows), len(rows))
    return target


@task(task_run_name="poses")
def find_cameras(frames: Path, data: Path, params: PosesParams, max_side: int, run: str | None) -> Path:
    """Find from where the images were taken; return the folder of the scene.

    Raises:
        DatasetError: too few could be placed; says why, and what to film better.
    """
    from tasks.splatting.capture.inputs import adopt, recognise
    from tasks.splatting.mlflow_logging import FIGURES
    from tasks.splatting.poses.find import find_poses
    from tasks.splatting.poses.scene_report import pose_markdown, pose_metrics, write_pose_report

    kind, target = recognise(allowed_path(data)), step_dir(run, POSES)
    if kind in {"colmap", "transforms"}:
        events = adopt(frames, target, max_side, params)
    else:
        events = find_poses(frames / "images", target, params, kind == "video")
    with Page("poses", "Search for the cameras") as page, bars() as shown:
        report = follow(events, shown, page, logger())
    write_pose_report(report, frames, target / REPORT)
    write_json(target / REPORT / FIGURES, pose_metrics(report))
    write_step_info(report.scene, {"data": data, "poses": params.model_dump(mode="json")})
    logger().info("%d of %d images placed, %d points", report.registered, report.total, report.points)
    show_markdown("poses", pose_markdown(report), "How many images were placed, and how well")
    return Path(report.scene)


@task(task_run_name="train-{params.preset}")
def train(
    scene: Path, params: SplatParams, export: ExportParams, track: SplatTrackParams, run: str | None, *, finish: bool
) -> Path:
    """Fit the Gaussians, every measurement going to MLflow as it happens, and draw; return the folder of the training.

    Args:
        scene, params, export, track, run: of the flow.
        finish: the export follows, within the same time limit.
    """
    from tasks.splatting.mlflow_logging import TABLE_COLUMNS, FitRecorder, describe_poses
    from tasks.splatting.render.device_rasterizer import rasterizer_on

    folder = step_dir(run, TRAINING)
    try:
        with open_fit_run(folder, scene, params, track) as (tracker, device, log):
            show_link("mlflow-run", tracker.url, "Curves, images and files in MLflow")
            describe_poses(scene.parent / REPORT, tracker)
            rasterizer = rasterizer_on(device, params)
            session = open_session(scene, folder, params, device, rasterizer, _deadline(finish=finish))
            with Page("training", "Fit", columns=TABLE_COLUMNS) as page, bars() as shown:
                FitRecorder(session, tracker, page, shown, log).run()
            with Page("drawing", "Videos and depth maps") as page, bars() as shown:
                follow(draw(session, rasterizer, export, folder / DRAWN), shown, page, log)
    except StopAsked as exc:
        logger().info("%s", exc)
        exit_for_resume(exc)
    return folder


def draw(session: "FitSession", rasterizer: "Rasterizer", params: ExportParams, target: Path) -> Iterator[Any]:
    """Draw what is asked for of a fit, with what an export has to know of it."""
    from tasks.splatting.results.export import draw_all

    gaussians, antialiased = session.gaussians().moved_to(session.device), session.params.antialiased
    yield from draw_all(gaussians, session.cameras(), rasterizer, params, target, antialiased=antialiased)
    write_step_info(target, {"device": session.device.type, "train": session.params.model_dump(mode="json")})


# Retried, because it writes the same files again and only MLflow makes it fail for a while.
@task(task_run_name="export", retries=2, retry_delay_seconds=30, retry_condition_fn=is_tracking_error)
def export_splat(scene: Path, run: str, params: ExportParams) -> str | None:
    """Write the result in every form asked for, with a viewer; return the id of the MLflow run, if it has one."""
    from tasks.splatting.mlflow_logging import log_result, result_markdown
    from tasks.splatting.results.export import export_all

    training = step_context.finished_training(run, FINISHED)
    drawn, target = training / DRAWN, training / SPLAT
    with mlflow_run.reopen_mlflow_run(training) as (tracker, log):
        show_link("mlflow-run", tracker.url, "Curves, images and files in MLflow")
        session = finished_fit(scene, training, read_step_info(drawn))
        fit = session.params
        events = export_all(
            session.gaussians(),
            session.cameras(),
            params,
            target,
            drawn=drawn,
            antialiased=fit.antialiased,
            near_plane=fit.near_plane,
            title=name_export(),
        )
        with Page("export", "Export") as page, bars() as shown:
            follow(events, shown, page, log)
        log_result(session, target, tracker)
        text = result_markdown(session, target, tracker.url) + mlflow_run.slot_line(tracker)
        show_markdown("summary", text, "The result: metrics and files")
        tracker.tag("mlflow.note.content", text)
    log.info("MLflow: %s", tracker.url)
    return tracker.known_id


def finished_fit(scene: Path, folder: Path, made_with: dict[str, Any]) -> "FitSession":
    """Return a fit that has ended, to be read on a host that need not have its device.

    Args:
        scene, folder: of the fit.
        made_with: as `draw` wrote it down.
    """
    import torch

    from tasks.splatting.render.device_rasterizer import rasterizer_on

    params, device = SplatParams.model_validate(made_with["train"]), torch.device(made_with["device"])
    session = open_session(scene, folder, params, device, rasterizer_on(torch.device("cpu"), params), None)
    session.load_finished()
    return session


def open_session(
    scene: Path,
    folder: Path,
    params: SplatParams,
    device: "torch.device",
    rasterizer: "Rasterizer",
    deadline: float | None,
) -> "FitSession":
    """Return the fit in a folder, in the world in which all scenes are of one size."""
    from tasks.splatting.fit.scene import normalized, read_scene
    from tasks.splatting.fit.session import FitSession

    source = allowed_path(scene)
    world, _ = normalized(read_scene(source))
    return FitSession(
        world,
        folder,
        params,
        device,
        rasterizer=rasterizer,
        clock_ms=now_ms,
        clock=time.monotonic,
        deadline=deadline,
        stop_asked=stop_asked,
        source=source,
    )


def _deadline(*, finish: bool) -> float | None:
    """Return when the fit has to end, on the monotonic clock, for what follows to be done in the run's time limit.

    Args:
        finish: the export follows, beside the drawing.
    """
    left, share = time_left_s(), _WHOLE_SHARE if finish else _DRAWING_SHARE
    return None if left is None else time.monotonic() + left - min(share * left, _MOST_S)


def open_fit_run(
    folder: Path, scene: Path, params: SplatParams, track: SplatTrackParams
) -> AbstractContextManager[tuple["Tracker", "torch.device", Logger]]:
    """Hold the MLflow run of a fit, its device and its log file for a block."""
    recorded = {"scene": str(scene), **read_step_info(scene), "train": params.model_dump(mode="json")}
    free = {f"train.{name}" for name in FREE_TO_CHANGE}
    return mlflow_run.open_mlflow_run(
        folder, recorded, params.device, track.experiment, name_splat(), free=free, last=False
    )
