"""Prefect tasks of the preparation steps that can be started alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.runtime import flow_run

from tasks.base.progress import R, Steps
from tasks.base.workspace import allowed_path, read_step_info, write_step_info
from tasks.classification.params import AugmentParams, SplitParams
from tasks.classification.steps import counted, split_markdown
from tasks.run import step_context
from tasks.run.display import bars
from tasks.run.prefect_page import show_markdown
from tasks.run.run_log import logger
from tasks.run.step_context import run_key, step_dir
from tasks.signals.params import CropParams, SpectrogramParams

if TYPE_CHECKING:
    from tasks.signals.spectrogram_tree import SpectrogramReport


def named(verb: str) -> Callable[[], str]:
    """Return what names a run: as a person named it, else the verb and what it works on."""

    def name() -> str:
        return step_context.given_name() or f"{verb}-{Path(flow_run.parameters['data']).name}"

    return name


def fill(
    stage: str, data: Path, output: Path | None, work: Callable[[Path], Steps[R]], params: Mapping[str, object]
) -> tuple[Path, R | None]:
    """Do the work of a stage, in the folder named or that of the run; return where, and the report.

    Args:
        stage: name of the folder below that of the run.
        data: what is read.
        output: where the result goes; None: the folder of the run.
        work: fills an existing empty folder.
        params: to remember beside the result.

    Returns:
        The folder, and the report; None where the run had filled it before it was started again.

    Raises:
        ConfigError: a path leads outside the allowed roots, or there is something in `output`.
    """
    from tasks.images.output_folder import check_output, filling

    target = step_dir(None, stage) if output is None else check_output(output, data, run_key())
    if read_step_info(target).get("run") == run_key():
        return target, None
    with filling(target, run_key()) as folder, bars() as shown:
        report = shown.watch(stage, work(folder))
        write_step_info(folder, {**read_step_info(data), "data": data, **params, "run": run_key()})
    logger().info("written to %s", target)
    return target, report


@task(task_run_name="split")
def split(data: Path, params: SplitParams, output: Path | None) -> Path:
    """Split the classes into train, val and test; return the folder."""
    from tasks.classification.data.split import splitting

    if params.group_by and params.group_by.lower().endswith(".csv"):
        allowed_path(Path(params.group_by))
    source = allowed_path(data)
    recorded = {"split": params.model_dump(mode="json")}
    target, report = fill("split", source, output, lambda folder: splitting(source, folder, params), recorded)
    if report is not None:
        for bad in report.bad:
            logger().warning("left out %s: %s", bad.path, bad.reason)
        logger().info("%d images of %d classes: %s", report.n_images, len(report.classes), counted(report.counts))
        show_markdown("split", split_markdown(report), "How the images were split")
    return target


@task(task_run_name="augment")
def augment(data: Path, params: AugmentParams, output: Path | None) -> Path:
    """Add the altered copies; return the folder of originals and copies."""
    from tasks.classification.data.augment import augmenting

    source = allowed_path(data)
    whole = not (source / "train").is_dir()
    recorded = {"augment": params.model_dump(mode="json")}
    target, report = fill(
        "augmented", source, output, lambda folder: augmenting(source, folder, params, whole=whole), recorded
    )
    if report is not None:
        methods = ", ".join(report.methods_used) or "no method"
        text = f"{report.original_images} original and {report.augmented_images} altered images by {methods}"
        logger().info("%s; classes: %s", text, ", ".join(report.classes))
        show_markdown("augment", f"# {text}\n\nClasses: {', '.join(report.classes)}\n", "The altered copies")
    return target


@task(task_run_name="crop")
def crop(data: Path, params: CropParams, output: Path | None) -> Path:
    """Cut the box out of every image; return the folder."""
    from tasks.images.crop import cropping

    source = allowed_path(data)
    box = (params.x, params.y, params.width, params.height)
    recorded = {"crop": params.model_dump(mode="json")}
    target, n_images = fill("cropped", source, output, lambda folder: cropping(source, folder, box), recorded)
    if n_images is not None:
        logger().info("%d images of %dx%d pixels", n_images, params.width, params.height)
        show_markdown("crop", f"# {n_images} images of {params.width}x{params.height} pixels\n", "The cropped images")
    return target


@task(task_run_name="spectrograms")
def draw_spectrograms(data: Path, params: SpectrogramParams, output: Path | None) -> Path:
    """Make an image of every frame of every recording; return the folder."""
    from tasks.signals.spectrogram_tree import making_spectrograms

    source = allowed_path(data)
    recorded = {"spectrogram": params.model_dump(mode="json")}
    target, report = fill(
        "spectrograms", source, output, lambda folder: making_spectrograms(source, folder, params), recorded
    )
    if report is not None:
        for note in report.notes:
            logger().warning("%s", note)
        logger().info("%d images of %d recordings", report.n_images, report.n_recordings)
        show_markdown("spectrograms", spectrogram_markdown(report), "The spectrograms")
    return target


def spectrogram_markdown(report: "SpectrogramReport") -> str:
    """Return the table of images per folder, and what the recordings were."""
    rates = ", ".join(f"{rate / 1e6:g} MS/s" for rate in report.sample_rates_hz)
    stored = ", ".join(f"{count} of {name}" for name, count in report.datatypes.items())
    lines = [f"# {report.n_images} images of {report.n_recordings} recordings", "", f"{stored}; {rates}", ""]
    lines += ["| folder | images |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in report.folders.items()]
    lines += ["", *(f"- {note}" for note in report.notes)]
    return "\n".join(lines)
