"""The recognition of parts given as meshes, and its stages: render, train a detector and an index, report."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import flow

from flows.stages import hold_device, run_stage
from gpu_pools.placement.queues import Queue, device_queue
from gpu_pools.slots.local_slot import on_device, refuse_if_taken
from tasks.recognition import steps
from tasks.recognition.params import (
    AddParams,
    DetectorParams,
    IndexParams,
    MethodParams,
    Methods,
    RecognitionTrackParams,
    RenderParams,
)
from tasks.run import step_context


@flow(name="render_parts", flow_run_name=steps.name_rendering)
def render_parts(data: Path, render: RenderParams = RenderParams(), run: str | None = None) -> Path:
    """Make images of parts that are given as meshes, with boxes, masks and poses.

    Args:
        data: a folder of meshes: STL, OBJ, PLY, GLB, 3MF; a file is a part.
        render: which images, and how they look.
        run: folder of the run to go on with; empty: this run's own.

    Returns:
        The folder with views/, scenes/ and parts.json.
    """
    return steps.render(data, render, run)


@flow(name="train_detector", flow_run_name=steps.name_detector)
def train_detector(
    dataset: Path,
    detector: DetectorParams = DetectorParams(),
    track: RecognitionTrackParams = RecognitionTrackParams(),
    run: str | None = None,
    finish: bool = True,
) -> str | None:
    """Train a detector on rendered scenes, grade it, and register it.

    Args:
        dataset: as `render_parts` leaves it.
        detector: which network, on what device, and for how long.
        track: under which names it is found in MLflow.
        run: folder of the run to go on with; empty: this run's own.
        finish: off: no more than what needs the device; `report_recognition` does the rest.

    Returns:
        The id of the MLflow run; None where the rest is to follow, or MLflow was away all along.
    """
    with on_device(detector.device, "training", detector.n_devices):
        steps.fit_detector(dataset, detector, track, run)
        if not finish:
            return None
        return steps.report(
            dataset, run or step_context.run_key(), MethodParams(index=False), detector, IndexParams(), track
        )[0]


@flow(name="train_index", flow_run_name=steps.name_index)
def train_index(
    dataset: Path,
    index: IndexParams = IndexParams(),
    track: RecognitionTrackParams = RecognitionTrackParams(),
    run: str | None = None,
    finish: bool = True,
) -> str | None:
    """Train an embedding on rendered views, make an index of them, grade it, and register it.

    Args:
        dataset: as `render_parts` leaves it.
        index: which network, on what device, and for how long.
        track: under which names it is found in MLflow.
        run: folder of the run to go on with; empty: this run's own.
        finish: off: no more than what needs the device; `report_recognition` does the rest.

    Returns:
        The id of the MLflow run; None where the rest is to follow, or MLflow was away all along.
    """
    with on_device(index.device, "training", index.n_devices):
        steps.fit_index(dataset, index, track, run)
        if not finish:
            return None
        return steps.report(
            dataset, run or step_context.run_key(), MethodParams(detector=False), DetectorParams(), index, track
        )[0]


@flow(name="report_recognition", flow_run_name=steps.name_report)
def report_recognition(
    dataset: Path,
    run: str,
    methods: Methods = MethodParams(),
    detector: DetectorParams = DetectorParams(),
    index: IndexParams = IndexParams(),
    track: RecognitionTrackParams = RecognitionTrackParams(),
) -> list[str | None]:
    """Grade and register what was trained; what needed a device is done.

    Args:
        dataset: that it was trained on.
        run: whose trainings they are.
        methods: which of them.
        detector: how it is graded, and when it takes over.
        index: how it is graded, and when it takes over.
        track: under which names it is found in MLflow.

    Returns:
        The ids of the MLflow runs.
    """
    return steps.report(dataset, run, methods, detector, index, track)


@flow(name="recognition", flow_run_name=steps.name_recognition)
def recognition(
    data: Path,
    methods: Methods = MethodParams(),
    render: RenderParams = RenderParams(),
    detector: DetectorParams = DetectorParams(),
    index: IndexParams = IndexParams(),
    track: RecognitionTrackParams = RecognitionTrackParams(),
    training_methods: Methods | None = None,
) -> list[str | None]:
    """Learn to find parts, given as meshes, in images, and to tell them apart.

    Args:
        data: a folder of meshes: STL, OBJ, PLY, GLB, 3MF; a file is a part.
        methods: detector, index, or both, one after the other.
        render: which images are made of the parts, and how they look.
        detector: which network finds the parts, on what device, and for how long it is trained.
        index: which network tells them apart, on what device, and for how long it is trained.
        track: under which names the results are found in MLflow.
        training_methods: `methods` under the name of the service before: yolo, faiss, or both.

    Returns:
        The ids of the MLflow runs.
    """
    chosen = training_methods or methods
    devices = steps.devices_of(chosen, detector, index)
    for device, n_devices in devices.items():
        refuse_if_taken(device, "training", n_devices)
    source = steps.check_start(data, chosen, render, detector, index)
    run = step_context.run_key()
    run_stage(render_parts, Queue("cpu", "preparation"), data=source, render=chosen.needed(render), run=run)
    shared: dict[str, Any] = {"dataset": steps.rendered(run), "run": run, "track": track}
    with ExitStack() as held:  # in a person's own process one slot, for all that computes
        if chosen.detector:
            held.enter_context(hold_device(train_detector, detector.device, detector.n_devices))
            queue = device_queue(detector.device, "training")
            run_stage(train_detector, queue, **shared, detector=detector, finish=False)
        if chosen.index:
            held.enter_context(hold_device(train_index, index.device, index.n_devices))
            run_stage(train_index, device_queue(index.device, "training"), **shared, index=index, finish=False)
        graded: dict[str, Any] = {"methods": chosen, "detector": detector, "index": index}
        run_stage(report_recognition, Queue("cpu", "inference"), **shared, **graded, refusable=False)
    return steps.mlflow_run_ids(run, chosen)


@flow(name="add_part", flow_run_name=steps.name_addition)
def add_part(
    data: Path,
    index: str = "models:/recognition-index@champion",
    add: AddParams = AddParams(),
    track: RecognitionTrackParams = RecognitionTrackParams(),
) -> str | None:
    """Add parts to an index without training.

    Args:
        data: a mesh, or a folder of meshes; a file is a part.
        index: models:/NAME@champion, models:/NAME/3 or runs:/ID.
        add: on what device, and what becomes of a part of the same name.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    with on_device(add.device, "inference"):
        return steps.add_part(data, index, add, track)
