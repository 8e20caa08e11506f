"""Draws and writes what an index answers on held-out views: tables, confusion, mistakes, scores."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.base.workspace import write_atomic
from tasks.images.figures import (
    BLUE,
    GREY,
    RED,
    confusion_matrix_figure,
    gallery_figure,
    new_figure,
    save,
    shorten,
    tidy_axes,
)
from tasks.images.images import read_rgb
from tasks.recognition.index.building import Queries
from tasks.recognition.index.grading.metrics import IndexReport
from tasks.recognition.index.index_folder import StoredIndex
from tasks.recognition.index.views import UNKNOWN


def write_report(report: IndexReport, stored: StoredIndex, queries: Queries, dataset: Path, target: Path) -> None:
    """Write the report into a folder, each file whole or not at all.

    They are metrics.json, per_part.csv, confusion_matrix.csv (row = true part), predictions.csv, and images.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    names = [*report.parts, UNKNOWN]
    write_atomic(target / "metrics.json", (json.dumps(report.metrics(), indent=2, allow_nan=False) + "\n").encode())
    tables = {
        "per_part.csv": pd.DataFrame([asdict(row) for row in report.per_part]),
        "confusion_matrix.csv": pd.DataFrame(report.confusion, index=names, columns=names).rename_axis("true/answered"),
        "predictions.csv": predictions(report, stored, queries),
    }
    for name, table in tables.items():
        write_atomic(target / name, table.to_csv(index=table.index.name is not None).encode())
    save(confusion_matrix_figure(report.confusion, names), target / "confusion_matrix.png")
    save(scores_figure(report, float(stored.config["threshold"])), target / "known_and_unknown.png")
    if report.mistakes:
        save(mistakes_figure(report, stored, queries, dataset), target / "worst_mistakes.png")


def predictions(report: IndexReport, stored: StoredIndex, queries: Queries) -> pd.DataFrame:
    """Return a row for each held-out view: what it shows, what was answered, and the nearest view."""
    rows = []
    for place, found in enumerate(report.answered):
        nearest = found.row
        rows.append(
            {
                "path": queries.paths[place],
                "true": name_of(report, int(queries.labels[place])),
                "answered": name_of(report, int(report.predicted[place])),
                "score": found.score,
                "nearest_view": "" if nearest is None else stored.paths[nearest],
                "likeliest_part": "" if nearest is None else stored.names[stored.labels[nearest]],
            }
        )
    return pd.DataFrame(rows)


def name_of(report: IndexReport, label: int) -> str:
    """Return the name of a label; of shapes that are no part: unknown."""
    return report.parts[label] if label < len(report.parts) else UNKNOWN


def scores_figure(report: IndexReport, threshold: float) -> Figure:
    """Return the scores of views of parts and of other shapes, and the threshold between them."""
    fig = new_figure(7.5, 3.8)
    ax = fig.add_subplot()
    both = np.concatenate([report.known_scores, report.unknown_scores])
    edges = np.linspace(both.min(), both.max() + 1e-6, 41).tolist()
    for values, colour, name in (
        (report.known_scores, BLUE, "views of parts"),
        (report.unknown_scores, RED, "views of other shapes"),
    ):
        if len(values):
            ax.hist(values, edges, weights=np.full(len(values), 1 / len(values)), color=colour, alpha=0.6, label=name)
    ax.axvline(threshold, color=GREY, linestyle="--", label=f"threshold {threshold:.3f}")
    refused = "" if report.unknown_refused is None else f", {report.unknown_refused:.1%} of the other shapes refused"
    tidy_axes(ax, f"{report.known_lost:.1%} of the views of parts lost{refused}")
    ax.set(xlabel="score", ylabel="share of the views")
    ax.legend(frameon=False, fontsize=9)
    return fig


def mistakes_figure(report: IndexReport, stored: StoredIndex, queries: Queries, dataset: Path) -> Figure:
    """Return the surest mistakes, each beside the nearest view where the data set still has it."""
    images: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    for place in report.mistakes:
        found = report.answered[place]
        images.append(read_rgb(dataset / queries.paths[place], min_side=256))
        true, named = (name_of(report, int(labels[place])) for labels in (queries.labels, report.predicted))
        captions.append(f"{_short(true)}\nnamed {_short(named)}")
        if found.row is not None and (dataset / stored.paths[found.row]).is_file():
            images.append(read_rgb(dataset / stored.paths[found.row], min_side=256))
            captions.append(f"nearest: {_short(stored.names[stored.labels[found.row]])}\n{found.score:.3f}")
    return gallery_figure(images, captions, columns=8, title="Worst mistakes, and the view nearest to each")


def _short(name: str) -> str:
    return shorten(name, 18)


def similar_parts(report: IndexReport, n: int = 5) -> list[tuple[str, str, int]]:
    """Return the pairs of parts that are taken for one another most often: names, and views in both directions."""
    size = len(report.parts)
    both = report.confusion[:size, :size] + report.confusion[:size, :size].T
    pairs = [(int(both[a, b]), a, b) for a in range(size) for b in range(a + 1, size) if both[a, b]]
    return [(report.parts[a], report.parts[b], count) for count, a, b in sorted(pairs, reverse=True)[:n]]


def summary(report: IndexReport, decision: str | None, what: str, url: str) -> str:
    """Return the markdown summary of a run for its page.

    Args:
        report: of the held-out views.
        decision: who is champion, and why; None: nothing was registered.
        what: the backbone.
        url: of the run in MLflow.
    """
    metrics = [f"| {name} | {_shown(value)} |" for name, value in report.metrics().items()]
    rows = [
        f"| {row.part} | {row.n_views} | {row.named:.3f} | {row.recall_1:.3f} | {row.recall_5:.3f} | "
        f"{row.refused:.3f} | {row.pose_error_deg:.0f} | {row.mixed_up_with} |"
        for row in report.per_part
    ]
    mixed = [f"- {a} and {b}: {count} views" for a, b, count in similar_parts(report)]
    return "\n".join(
        [
            f"# {what}: {report.named:.1%} of {len(report.known_scores)} held-out views named rightly",
            "",
            "| metric | value |",
            "|---|---|",
            *metrics,
            "",
            "| part | views | named | recall@1 | recall@5 | refused | pose error, degrees | most often taken for |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(["Taken for one another:", "", *mixed, ""] if mixed else []),
            *([decision, ""] if decision else []),
            f"Images, weights and curves: {url}",
            "",
        ]
    )


def _shown(value: float | None) -> str:
    return "null" if value is None else f"{value:.4f}"
