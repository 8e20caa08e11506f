"""The splatting pipeline and its three stages, from a video or photographs to a 3D Gaussian splat."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.stages import hold_device, run_stage
from gpu_pools.placement.queues import Queue, device_queue
from gpu_pools.slots.local_slot import on_device, refuse_if_taken
from tasks.run import mlflow_run, step_context
from tasks.splatting import steps
from tasks.splatting.params import ExportParams, FramesParams, PosesParams, SplatParams, SplatTrackParams


@flow(name="prepare_scene", flow_run_name=steps.name_scene)
def prepare_scene(
    data: Path,
    frames: FramesParams = FramesParams(),
    poses: PosesParams = PosesParams(),
    run: str | None = None,
) -> Path:
    """Choose the images of a scene and find from where they were taken.

    Args:
        data: a video, a folder of photographs, a COLMAP model with its images, or a transforms.json.
        frames: which images are taken.
        poses: how cameras are found, and when they are good enough.
        run: folder of the run to go on with; empty: this run's own.

    Returns:
        The folder of the scene: images/ and sparse/0, as other trainers of splats read it, too.
    """
    images = steps.choose_frames(data, frames, run)
    return steps.find_cameras(images, data, poses, frames.max_side, run)


@flow(name="train_splat", flow_run_name=steps.name_splat)
def train_splat(
    scene: Path,
    train: SplatParams = SplatParams(),
    export: ExportParams = ExportParams(),
    track: SplatTrackParams = SplatTrackParams(),
    run: str | None = None,
    finish: bool = True,
) -> str | None:
    """Fit Gaussians to a prepared scene and hand the result on in the forms people use.

    Args:
        scene: as `prepare_scene` leaves it.
        train: how they are fitted, on what device, and for how long.
        export: which files are written.
        track: under which names it is found in MLflow.
        run: folder of the run to go on with; empty: this run's own.
        finish: off: no more than what needs the device; `export_splat` does the rest.

    Returns:
        The id of the MLflow run; None where the rest is to follow, or MLflow was away all along.
    """
    with on_device(train.device, "training", train.n_devices):
        steps.train(scene, train, export, track, run, finish=finish)
        if not finish:
            return None
        return steps.export_splat(scene, run or step_context.run_key(), export)


@flow(name="export_splat", flow_run_name=steps.name_export)
def export_splat(
    scene: Path,
    run: str,
    export: ExportParams = ExportParams(),
    track: SplatTrackParams = SplatTrackParams(),
) -> str | None:
    """Hand a fitted splat on in the forms people use; what needed a device is drawn.

    Args:
        scene: that was fitted to.
        run: whose fit it is.
        export: which files are written, beside the videos and depth maps that are there.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    return steps.export_splat(scene, run, export)


@flow(name="splatting", flow_run_name=steps.name_splat)
def splatting(
    data: Path,
    frames: FramesParams = FramesParams(),
    poses: PosesParams = PosesParams(),
    train: SplatParams = SplatParams(),
    export: ExportParams = ExportParams(),
    track: SplatTrackParams = SplatTrackParams(),
) -> str | None:
    """Make a 3D Gaussian splat of a scene that was filmed or photographed.

    Args:
        data: a video, a folder of photographs, a COLMAP model with its images, or a transforms.json.
        frames: which images are taken.
        poses: how cameras are found, and when they are good enough.
        train: how Gaussians are fitted, on what device, and for how long.
        export: which files are written.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    refuse_if_taken(train.device, "training", train.n_devices)
    source = steps.check_start(data, frames, train)
    run = step_context.run_key()
    run_stage(prepare_scene, Queue("cpu", "preparation"), data=source, frames=frames, poses=poses, run=run)
    shared: dict[str, Any] = {"scene": steps.scene_of(run), "run": run, "export": export, "track": track}
    with hold_device(train_splat, train.device, train.n_devices):
        run_stage(train_splat, device_queue(train.device, "training"), **shared, train=train, finish=False)
        run_stage(export_splat, Queue("cpu", "inference"), **shared, refusable=False)
    return mlflow_run.mlflow_run_id(run)
