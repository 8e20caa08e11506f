"""Collects the answers of a prediction into tables, and writes the files of its result."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.base.progress import Steps
from tasks.base.workspace import copy_whole, storage_errors, write_json
from tasks.images.figures import save
from tasks.images.images import write_jpeg
from tasks.inference.boxes import BOXES, COCO, FoundBoxes, contact_sheet, with_boxes
from tasks.inference.gallery import GALLERY, TIMELINE, Gallery, timeline_figure
from tasks.inference.predictor import Answer
from tasks.inference.tables import CSV, PARQUET, Summary, TableWriter, row_of
from tasks.inference.weights import CLASSIFIER, ModelFiles

REPORT = "prediction.json"
NOT_CALIBRATED = "the model has no temperature from its validation part: calibrated_confidence is empty"


@dataclass(slots=True)
class Result:
    """What a prediction came to."""

    summary: Summary = field(default_factory=Summary)
    gallery: Gallery = field(default_factory=Gallery)
    boxes: FoundBoxes = field(default_factory=FoundBoxes)  # of a detector
    drawn: Gallery = field(default_factory=Gallery)  # images with boxes on them
    times: list[float] = field(default_factory=list)  # of a video or recording, with
    names: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    seconds: float = 0.0  # from the first image to the last row

    @property
    def images_per_second(self) -> float:
        """Return how many images went through in a second, loading included."""
        return self.summary.n_images / max(self.seconds, 1e-9)


def collecting(
    batches: Iterator[list[Answer]], files: ModelFiles, folder: Path, total: int, clock: Callable[[], float]
) -> Steps[Result]:
    """Write the tables into `folder`, an existing one, as answers come; yield (done, total) per batch.

    Args:
        batches: the answers, in order.
        files: the model; its configuration has the classes.
        total: images to come.
        clock: seconds, rising.
    """
    result = Result()
    classes, temperature = list(files.config["classes"]), files.config.get("temperature")
    started = clock()
    with TableWriter(folder) as table:
        for batch in batches:
            rows = [row_of(answer, classes, temperature) for answer in batch]
            _take_boxes(result, batch, rows)
            for answer, row in zip(batch, rows, strict=True):
                table.add(row)
                result.summary.add(row)
                result.gallery.add(answer, row)
                if answer.time_s is not None and row["class"] is not None:
                    result.times.append(answer.time_s)
                    result.names.append(row["class"])
                    result.probabilities.append(row["probability"])
            result.seconds = clock() - started
            yield result.summary.n_images, max(total, result.summary.n_images)
    return result


def _take_boxes(result: Result, batch: list[Answer], rows: list[dict[str, Any]]) -> None:
    """Keep what a detector found on an image; its answers come as one batch."""
    if not batch or (whole := batch[0].whole) is None:
        return
    result.boxes.add(batch, [row["class"] for row in rows], [row["probability"] for row in rows])
    found = [(answer.region, row) for answer, row in zip(batch, rows, strict=True) if answer.region is not None]
    names, scores = [str(row["class"]) for _, row in found], [float(row["probability"]) for _, row in found]
    result.drawn.offer(
        lambda: with_boxes(whole, [region for region, _ in found], names, scores), Path(batch[0].path).name
    )


def write_result(result: Result, about: dict[str, Any], title: str, folder: Path) -> list[str]:
    """Add the images and prediction.json to the tables in `folder`; return the names of all files there."""
    save(result.gallery.figure(title), folder / GALLERY)
    names = [CSV, PARQUET, GALLERY, REPORT]
    if result.boxes.images:
        source = Path(about["source"])
        write_jpeg(folder / BOXES, contact_sheet(result.drawn.images), 90)
        result.boxes.write(folder / COCO, source if source.is_dir() else source.parent)
        names += [BOXES, COCO]
    if result.times:
        save(timeline_figure(result.times, result.names, result.probabilities), folder / TIMELINE)
        names.append(TIMELINE)
    summary = result.summary
    figures = {
        "counts": dict(summary.counts.most_common()),
        "n_pictures": summary.n_images,
        "n_failed": summary.n_failed,
        "n_empty": summary.n_empty,
        "n_answers": summary.n_answers,
        "errors": summary.errors,
        "mean_probability": summary.mean_probability,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
    }
    write_json(folder / REPORT, {**about, **figures})
    return names


def move_in(folder: Path, names: list[str], target: Path) -> None:
    """Move whole files from the run's temporary folder, on the same disk, to where they are looked for."""
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(folder / name, target / name)


def copy_out(folder: Path, names: list[str], target: Path) -> None:
    """Copy the result to the folder a person named, each file whole or not at all."""
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            copy_whole(folder / name, target / name)


def lacks_temperature(about: dict[str, Any]) -> bool:
    """Return whether a classifier answered that was not calibrated; models of parts have thresholds instead."""
    return about["temperature"] is None and about["model_kind"] == CLASSIFIER


def markdown(result: Result, about: dict[str, Any], url: str) -> str:
    """Return the summary of a prediction for its Prefect page."""
    s = result.summary
    good = s.n_images - s.n_failed - s.n_empty
    lines = [
        f"# {good} of {s.n_images} images named by {about['model']}",
        "",
        f"{result.images_per_second:.1f} images a second on {about['device']} in {about['precision']}.",
        "",
        *([f"{s.n_answers} regions; none in {s.n_empty} images.", ""] if s.n_empty or s.n_answers != good else []),
        "| class | answers | share |",
        "|---|---|---|",
        *(f"| {name} | {count} | {count / max(1, s.n_answers):.1%} |" for name, count in s.counts.most_common()),
        "",
    ]
    if s.errors:
        lines += [f"Not usable: {s.n_failed}", "", *(f"- {text}" for text in s.errors), ""]
    if lacks_temperature(about):
        lines += [f"Not calibrated: {NOT_CALIBRATED}.", ""]
    return "\n".join([*lines, f"Table and images: {url}", ""])


def now_s() -> float:
    """Return seconds of a clock that only rises."""
    return time.perf_counter()
