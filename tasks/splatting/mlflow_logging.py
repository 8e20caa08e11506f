"""Logs a fit to MLflow: metrics, images and files."""

import json
from pathlib import Path
from typing import Any

import cv2

from gpu_pools.slots.lease import report_progress
from tasks.base.progress import Progress
from tasks.base.workspace import read_step_info, write_atomic
from tasks.run.recorder import Recorder
from tasks.splatting.fit.fit_events import Done, Event, Measurement, MeasurementDone, StepsDone
from tasks.splatting.fit.session import CAMERAS, EXPOSURES, GAUSSIANS, METRICS, FitSession
from tasks.tracking.mlflow_names import stem_as_name
from tasks.tracking.tracker import Tracker

FIGURES = "poses.json"
"""The file of the metrics of a preparation, beside its images."""

# Measurement field -> MLflow key; what stands before the slash is the section of MLflow's charts.
METRIC_KEYS = {
    "train_loss": "loss/train",
    "psnr": "psnr/held_out",
    "ssim": "ssim/held_out",
    "l1": "l1/held_out",
    "n_gaussians": "gaussians/number",
    "opacity_mean": "gaussians/opacity_mean",
    "scale_median": "gaussians/scale_median",
    "steps_per_s": "speed/steps_per_s",
    "seconds": "speed/seconds",
    "memory_bytes": "memory/bytes",
}

# Of a measurement, what the table on Prefect's page has room for.
TABLE_COLUMNS = ("step", "train_loss", "psnr", "ssim", "n_gaussians", "steps_per_s", "seconds")


_EARLY = "The fit ended before its last step, so that the result is there within the run's time limit"


class FitRecorder(Recorder[FitSession, MeasurementDone]):
    """Hands each event of a fit to those it concerns."""

    _caption = ""

    def describe(self) -> None:
        """Record the scene."""
        describe_scene(self.session, self.tracker)

    def handle(self, event: Event) -> None:
        """Pass on progress, a measurement or the end."""
        if isinstance(event, Progress):
            self.bars.move(event.work, event.done, event.total)
        elif isinstance(event, StepsDone):
            self.step_done(event.step, event.max_steps, f"{event.steps_per_s:.1f} steps/s  {self._caption}")
            report_progress(event.step, event.max_steps, event.seconds_left, "step")  # to those who wait
        elif isinstance(event, MeasurementDone):
            self._handle_measurement(event)
        elif isinstance(event, Done):
            if event.result.ended == "deadline":
                self.log.warning(_EARLY)
            if event.result.flagged:
                self.log.warning(event.result.flagged)

    def _handle_measurement(self, event: MeasurementDone) -> None:
        self.show_new_rows()
        self.tracker.step_ended(event.metrics.step)
        for preview in event.previews:
            name = stem_as_name(preview.name)
            path = self.session.folder / "previews" / f"{name}.png"
            write_atomic(path, bytes(cv2.imencode(".png", preview.pixels[..., ::-1])[1]))
            self.tracker.image(f"held_out/{name}", event.metrics.step, path)
        self._caption = f"psnr {event.metrics.psnr:.2f} dB" if event.metrics.psnr is not None else ""
        self.log.info(measurement_line(event.metrics, self.session.settings.max_steps))

    def log_row(self, row: MeasurementDone) -> None:
        """Log the metrics of a measurement."""
        log_measurement(self.tracker, row)

    def table_row(self, row: MeasurementDone) -> dict[str, Any]:
        """Return the measurement's row of the page's table."""
        return measurement_row(row.metrics, self.session.settings.max_steps)


def log_measurement(tracker: Tracker, measured: MeasurementDone) -> None:
    """Log the metrics of a measurement, with the time it was taken."""
    values = {key: getattr(measured.metrics, name) for name, key in METRIC_KEYS.items()}
    tracker.metrics(values, measured.metrics.step, measured.timestamp_ms)


def measurement_row(metrics: Measurement, total: int) -> dict[str, Any]:
    """Return a row of the table on Prefect's page, rounded."""
    values = {name: getattr(metrics, name) for name in METRIC_KEYS}
    rounded = {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
    return {"step": metrics.step, "total_steps": total, **rounded}


def measurement_line(metrics: Measurement, total: int) -> str:
    """Return the line the log has for a measurement."""
    quality = "" if metrics.psnr is None else f" held-out PSNR {metrics.psnr:.2f} dB, SSIM {metrics.ssim:.3f};"
    return (
        f"step {metrics.step}/{total}: loss {metrics.train_loss:.4f};{quality} {metrics.n_gaussians} Gaussians, "
        f"{metrics.steps_per_s:.1f} steps/s, {metrics.seconds:.0f} s"
    )


def describe_scene(session: FitSession, tracker: Tracker) -> None:
    """Record what is fitted to, with its digest."""
    views, points = session.scene.views, session.scene.points
    source = views[0].image.parent.parent
    name = Path(read_step_info(source).get("data", source)).name
    profile = {"pictures": len(views), "points": len(points)}
    tracker.input(name, str(source), session.digest, profile=profile)


def describe_poses(report: Path, tracker: Tracker) -> None:
    """Hand MLflow the metrics and images of the preparation, where there are some."""
    if not (report / FIGURES).is_file():
        return
    figures: dict[str, float] = json.loads((report / FIGURES).read_text())
    tracker.metrics({f"poses/{name}": value for name, value in figures.items()}, 0)
    tracker.artifact(report, "poses")


def log_result(session: FitSession, folder: Path, tracker: Tracker) -> None:
    """Hand MLflow the files of the fit and of the result, and say how it went."""
    assert session.result is not None, "what is exported was fitted"
    for name, kind in {GAUSSIANS: "weights", METRICS: "figures", EXPOSURES: "figures", CAMERAS: "figures"}.items():
        if (session.folder / name).is_file():
            tracker.artifact(session.folder / name, kind)
    tracker.artifact(folder, "splat")
    tracker.tag("ended", session.result.ended)
    tracker.tag("quality", session.result.flagged or "as it should be")


def result_markdown(session: FitSession, folder: Path, url: str) -> str:
    """Return the markdown summary of a run for its Prefect page."""
    assert session.result is not None, "what is exported was fitted"
    metrics, flagged = session.result.metrics, session.result.flagged
    psnr = "" if metrics.psnr is None else f", {metrics.psnr:.2f} dB on held-out views"
    rows = {
        name: value for name, value in measurement_row(metrics, session.settings.max_steps).items() if value is not None
    }
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    lines = [
        f"# {metrics.n_gaussians:,} Gaussians{psnr}",
        "",
        *([f"**Look twice.** {flagged}", ""] if flagged else []),
        *([f"{_EARLY}.", ""] if session.result.ended == "deadline" else []),
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        "| file | MB |",
        "|---|---|",
        *(f"| {path.name} | {path.stat().st_size / 1e6:.1f} |" for path in files),
        "",
        f"Images, curves and the viewer (`splat/viewer.html`): {url}",
        "",
    ]
    return "\n".join(lines)
