"""The steps of the splatting pipeline as Prefect tasks."""

import os
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from gpu_pools.kernels import EXTENSIONS
from gpu_pools.stopping import look
from tasks import shell
from tasks.display import Bars, bars
from tasks.errors import StopAsked
from tasks.prefect_page import Page, show_link, show_markdown
from tasks.shell import Logger, leave_unended, logger, now_ms, stage_dir, stop_asked, time_left_s
from tasks.splatting.going_on import FRAMES, FRAMES_TABLE, POSES, SCENE, TRAINING
from tasks.splatting.params import ExportParams, FramesParams, PosesParams, SplatParams, SplatTrackParams
from tasks.workspace import allowed_path, recall, remember, run_dir, write_json

if TYPE_CHECKING:
    import torch

    from tasks.splatting.rasterizer import Rasterizer
    from tasks.splatting.session import Session
    from tasks.tracking import Tracker

REPORT, SPLAT = "report", "splat"
NEEDED_FIRST = ("numpy", "cv2", "tasks.splatting.inputs", "tasks.splatting.frames")
"""Imported by the first steps: a run that waits for its server uses the time."""

_EXPORT_SHARE, _EXPORT_S = 0.2, 600.0  # of what is left of a time limit, and at most, set aside for the export


def name_scene() -> str:
    """Return the name of a preparation run."""
    data = flow_run.parameters.get("data")
    return f"scene-{Path(data).stem}" if data else "scene"


def name_splat() -> str:
    """Return the name of a training run: the one in the parameters, else the run's own, else scene and preset."""
    values = flow_run.parameters
    train, track = values.get("train") or SplatParams(), values.get("track") or SplatTrackParams()
    if track.run_name:
        return str(track.run_name)
    if given := shell.given_name():
        return given
    data = values.get("data") or recall(Path(values["scene"])).get("data", values["scene"])
    return f"splat-{Path(data).stem}-{train.preset}"


def scene_of(run: str) -> Path:
    """Return the folder that the preparation of a run leaves for its training."""
    return run_dir(run) / SCENE


def follow(events: Iterable[Any], shown: Bars, page: Page, log: Logger) -> Any:
    """Show every event of a preparation and return the last one, its report."""
    from tasks.splatting import export, stage_events

    event: Any = None
    for event in events:
        if isinstance(event, stage_events.StageProgress | export.Progress):
            shown.move(
                event.stage if isinstance(event, stage_events.StageProgress) else "export", event.done, event.total
            )
            page.progress(event.done / max(1, event.total))
        elif isinstance(event, stage_events.Note | export.Note):
            log.warning(event.text)
        look()
        if stop_asked():  # each stage that is done is found again
            log.info("stopped, as asked")
            leave_unended()
    return event


@task(task_run_name="check")
def check_start(data: Path, train: SplatParams) -> Path:
    """Return where the pictures are, after a look at what would fail only later.

    Raises:
        ConfigError: the path leads outside the allowed roots, or is neither a video nor a folder of pictures.
    """
    from tasks.splatting.inputs import recognise

    source = allowed_path(data)
    logger().info("%s: %s", source.name, recognise(source))
    return source


@task(task_run_name="frames")
def choose_frames(data: Path, params: FramesParams, run: str | None) -> Path:
    """Take pictures from a video or folder; return the folder with images/, or `data` where cameras are known."""
    from tasks.splatting.frames import extract_frames
    from tasks.splatting.inputs import recognise
    from tasks.splatting.picked import read_table

    source = allowed_path(data)
    if recognise(source) in {"colmap", "transforms"}:
        return source
    target = stage_dir(run, FRAMES)
    if not (target / FRAMES_TABLE).is_file():
        with Page("frames", "Choice of pictures") as page, bars() as shown:
            follow(extract_frames(source, target, params), shown, page, logger())
    rows = read_table(target / FRAMES_TABLE)
    logger().info("%d pictures taken of %d looked at", sum(row.chosen for row in rows), len(rows))
    return target


@task(task_run_name="poses")
def find_cameras(frames: Path, data: Path, params: PosesParams, max_side: int, run: str | None) -> Path:
    """Find from where the pictures were taken; return the folder of the scene.

    Raises:
        DatasetError: too few could be placed; says why, and what to film better.
    """
    from tasks.splatting.inputs import adopt, recognise
    from tasks.splatting.poses import find_poses
    from tasks.splatting.scene_report import pose_figures, pose_markdown, write_pose_report
    from tasks.splatting.tracked import FIGURES

    kind, target = recognise(allowed_path(data)), stage_dir(run, POSES)
    if kind in {"colmap", "transforms"}:
        events = adopt(frames, target, max_side, params)
    else:
        events = find_poses(frames / "images", target, params, kind == "video")
    with Page("poses", "Search for the cameras") as page, bars() as shown:
        report = follow(events, shown, page, logger())
    write_pose_report(report, frames, target / REPORT)
    write_json(target / REPORT / FIGURES, pose_figures(report))
    remember(report.scene, {"data": data, "poses": params.model_dump(mode="json")})
    logger().info("%d of %d pictures placed, %d points", report.registered, report.total, report.points)
    show_markdown("poses", pose_markdown(report), "How many pictures were placed, and how well")
    return Path(report.scene)


@task(task_run_name="train-{params.preset}")
def train(scene: Path, params: SplatParams, track: SplatTrackParams, run: str | None) -> Path:
    """Fit the Gaussians, every measurement going to MLflow as it happens; return the folder of the training."""
    from tasks.splatting.tracked import TABLE_COLUMNS, describe_poses, fit_tracked

    folder = stage_dir(run, TRAINING)
    try:
        with tracked(folder, scene, params, track, last=False) as (tracker, device, log):
            show_link("mlflow-run", tracker.url, "Curves, pictures and files in MLflow")
            describe_poses(scene.parent / REPORT, tracker)
            session = open_session(scene, folder, params, device)
            with Page("training", "Fit", columns=TABLE_COLUMNS) as page, bars() as shown:
                fit_tracked(session, tracker, page, shown, log)
    except StopAsked as exc:
        logger().info("%s", exc)
        leave_unended()
    return folder


@task(task_run_name="export")
def export(scene: Path, training: Path, train: SplatParams, params: ExportParams, track: SplatTrackParams) -> str:
    """Write the result in every form asked for, with a viewer; return the id of the MLflow run."""
    from tasks.splatting.export import export_all
    from tasks.splatting.tracked import log_result, result_markdown

    with tracked(training, scene, train, track, last=True) as (tracker, device, log):
        session = open_session(scene, training, train, device)
        session.load_finished()
        target = training / SPLAT
        events = export_all(
            session.gaussians().moved_to(device),
            session.cameras(),
            rasterizer_on(device, train),
            params,
            target,
            antialiased=train.antialiased,
            near_plane=train.near_plane,
            title=name_splat(),
        )
        with Page("export", "Export") as page, bars() as shown:
            follow(events, shown, page, log)
        log_result(session, target, tracker)
        text = result_markdown(session, target, tracker.url)
        show_markdown("summary", text, "The result: figures and files")
        tracker.tag("mlflow.note.content", text)
    log.info("MLflow: %s", tracker.url)
    return tracker.run_id


def open_session(scene: Path, folder: Path, params: SplatParams, device: "torch.device") -> "Session":
    """Return the fit in a folder, in the world in which all scenes are of one size."""
    from tasks.splatting.scene import normalized, read_scene
    from tasks.splatting.session import Session

    world, _ = normalized(read_scene(allowed_path(scene)))
    rasterizer = rasterizer_on(device, params)
    return Session(
        world,
        folder,
        params,
        device,
        rasterizer=rasterizer,
        clock_ms=now_ms,
        clock=time.monotonic,
        deadline=_deadline(),
        stop_asked=stop_asked,
    )


def _deadline() -> float | None:
    """Return when the fit has to end, on the monotonic clock, for the export to be done within the run's time limit."""
    left = time_left_s()
    return None if left is None else time.monotonic() + left - min(_EXPORT_SHARE * left, _EXPORT_S)


def rasterizer_on(device: "torch.device", params: SplatParams) -> "Rasterizer":
    """Return what draws on a device.

    Raises:
        ConfigError: a GPU's kernels are not there.
    """
    if device.type == "cuda":
        from tasks.splatting.cuda_rasterizer import CudaRasterizer

        built = os.environ.get(EXTENSIONS)  # the slot's own GPU's
        return CudaRasterizer(near_plane=params.near_plane, kernels=Path(built) if built else None)
    from tasks.splatting.cpu_rasterizer import CpuRasterizer

    return CpuRasterizer(num_threads=params.num_threads, near_plane=params.near_plane)


def tracked(
    folder: Path, scene: Path, params: SplatParams, track: SplatTrackParams, *, last: bool
) -> AbstractContextManager[tuple["Tracker", "torch.device", Logger]]:
    """Hold the MLflow run of a fit, its device and its log file for a block; see `tasks.shell.tracked`."""
    from tasks.splatting.fit_checkpoint import FREE_TO_CHANGE

    recorded = {"scene": str(scene), **recall(scene), "train": params.model_dump(mode="json")}
    free = {f"train.{name}" for name in FREE_TO_CHANGE}
    return shell.tracked(folder, recorded, params.device, track.experiment, name_splat(), free=free, last=last)
