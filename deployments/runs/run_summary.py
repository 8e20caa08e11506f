"""Prints the summary of a run that has ended: metrics, files, links."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from deployments.stack.stack import known_stack
from tasks.base.workspace import run_dir

_CLASSES = 20  # shown


def print_outcome(run_id: UUID) -> None:
    """Print the metrics of a finished run, where its files are, and how to see it in the browser."""
    console = Console(soft_wrap=True)
    folder = run_dir(str(run_id))
    for part in _found(folder):
        console.print(part, highlight=False)
    known = known_stack()
    prefix = "" if known else "`yard up`, then "
    stack = known or {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}
    console.print(f"see the run: {prefix}{stack['prefect']}/runs/flow-run/{run_id}", highlight=False)
    for card in folder.glob("*/run.json"):
        console.print(f"in MLflow:   {prefix}{stack['mlflow']}/{_page(card)}", highlight=False)


def _found(folder: Path) -> Iterator[RenderableType]:
    """Yield what the folder of a run has for people: its metrics first, then where the files are."""
    training, prediction, snr = folder / "training", folder / "prediction", folder / "snr" / "report"
    report = prediction / "prediction.json"
    if (figures := training / "report" / "metrics.json").is_file():
        yield _table("on the test part", json.loads(figures.read_text()))
        yield f"images and tables: {figures.parent}"
        yield f"weights: {training / 'best.pt'}"
    elif (training / "finished.json").is_file() and "metrics" in (
        found := json.loads((training / "finished.json").read_text())
    ):
        yield _table("the splat, on held-out views", found["metrics"])
        yield f"viewer: {training / 'splat' / 'viewer.html'}"
        yield f"all files: {training / 'splat' / 'splat.zip'}"
    elif report.is_file():
        yield from _prediction(json.loads(report.read_text()))
        yield f"table: {prediction / 'predictions.csv'} (and .parquet)"
        yield f"images: {prediction / 'gallery.png'}"
    elif (answers := folder / "description" / "description.json").is_file():
        found = json.loads(answers.read_text())
        yield _table(
            f"answers of {found['model']}",
            {name: value for name, value in found.items() if "/" in name and value is not None},
        )
        yield f"tables: {answers.parent / 'answers.csv'} (and .parquet, .jsonl)"
        yield f"images: {answers.parent / 'gallery.png'}"
    elif (snr / "snr.csv").is_file():
        yield _ratios(snr / "snr.csv")
        yield f"curves and tables: {snr}"
    elif reports := sorted(folder.glob("*/report/metrics.json")):  # a detector, an index
        for path in reports:
            found = json.loads(path.read_text())
            found = found.get("rendered", found)  # of a detector: on rendered scenes, beside photographs
            yield _table(path.parents[1].name, {key: value for key, value in found.items() if _is_figure(value)})
            yield f"images and tables: {path.parent}"
    else:
        yield f"files: {folder}"


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _prediction(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    usable = report["n_pictures"] - report["n_failed"]
    yield f"{usable} of {report['n_pictures']} images read, {report['images_per_second']:.1f} a second"
    counts = report["counts"]
    counted = "boxes" if report.get("detector") or report.get("model_kind") == "detector" else "images"
    named = Table("class", Column(counted, justify="right"), title=f"named by {report['model']} on {report['device']}")
    for name, count in list(counts.items())[:_CLASSES]:
        named.add_row(escape(name), str(count))
    yield named
    if len(counts) > _CLASSES:
        yield f"and {len(counts) - _CLASSES} classes more"
    for error in report["errors"]:
        yield f"not usable: {error}"


def _ratios(path: Path) -> Table:
    """Return accuracy over SNR, a column for every model."""
    rows: dict[float, dict[str, float]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            label = f"{line['model']} {line['colour_map']}".strip()
            rows.setdefault(float(line["snr_db"]), {})[label] = float(line["accuracy"])
    labels = list(dict.fromkeys(label for row in rows.values() for label in row))
    table = Table("SNR, dB", *labels, title="accuracy")
    for snr_db, row in sorted(rows.items()):
        table.add_row(f"{snr_db:g}", *(f"{row[label]:.1%}" if label in row else "" for label in labels))
    return table


def _table(title: str, figures: Mapping[str, float | int | None]) -> Table:
    table = Table("figure", Column("value", justify="right"), title=title)
    for name, value in figures.items():
        shown = "null" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
        table.add_row(name.replace("_", " "), shown)
    return table


def _page(card: Path) -> str:
    ids = json.loads(card.read_text())
    # Without the type MLflow opens the page of language models.
    return f"#/experiments/{ids['experiment_id']}/runs/{ids['run_id']}?workflowType=machine_learning"
