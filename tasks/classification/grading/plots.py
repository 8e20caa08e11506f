"""Draws the figures of a training and its test with matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tasks.classification.grading.evaluate import CalibrationBin
from tasks.classification.grading.metrics import ClassGrades
from tasks.images.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    RED,
    as_label,
    new_figure,
    short_count,
    shorten,
    tidy_axes,
)

CURVES: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    ("Loss (nats)", (("train_loss", "train", BLUE, "-"), ("val_loss", "validation", RED, "-"))),
    (
        "Accuracy",
        (
            ("train_acc", "train", BLUE, "-"),
            ("val_acc", "validation", RED, "-"),
            ("best_acc", "best so far", GREY, ":"),
        ),
    ),
    (
        "F1 and average precision (validation)",
        (
            ("macro_f1", "macro F1", RED, "-"),
            ("micro_f1", "micro F1", BLUE, "--"),
            ("mAP", "mAP", GREEN, "-"),
        ),
    ),
    ("Learning rate", (("learning_rate", "learning rate", INK, "-"),)),
)
"""Panels of the learning curves: title, then (key in an epoch's figures, name, colour, style) per curve."""


def learning_curves_figure(history: Sequence[Mapping[str, Any]], *, best_epoch: int | None = None) -> Figure:
    """Return the curves of a training, its best epoch marked.

    Args:
        history: one mapping per epoch with `epoch` and any of the keys in CURVES; None: no figure that epoch.
        best_epoch: None: the first one of the highest `val_acc`, of those the lowest `val_loss`, as training chooses.
    """
    epochs = [int(row["epoch"]) for row in history]
    graded = [row for row in history if row.get("val_acc") is not None]
    if best_epoch is None and graded:
        best_epoch = int(max(graded, key=lambda row: (row["val_acc"], -row.get("val_loss", 0.0)))["epoch"])
    fig = new_figure(11, 7)
    for ax, (title, curves) in zip(fig.subplots(2, 2).flat, CURVES, strict=True):
        for key, name, colour, style in curves:
            values = [np.nan if row.get(key) is None else float(row[key]) for row in history]
            if np.isfinite(values).any():
                marker = "o" if len(epochs) <= 30 and style == "-" else ""
                ax.plot(epochs, values, style, color=colour, marker=marker, markersize=3.5, label=name)
        if best_epoch is not None:
            ax.axvline(best_epoch, color=ORANGE, linewidth=1.4, zorder=1.5, label=f"best epoch ({best_epoch})")
        tidy_axes(ax, title)
        ax.set_xlabel("epoch")
        ax.set_xlim(min(epochs, default=1) - 0.5, max(epochs, default=1) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=9)
    rates = fig.axes[-1]
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    rates.set_ylim(bottom=0)
    return fig


def reliability_figure(bins: Sequence[CalibrationBin], calibration_error: float) -> Figure:
    """Return how often answers of a given confidence are right, above how many there are.

    Args:
        bins: of equal width, as `calibration_bins` gives them.
        calibration_error: expected calibration error, in [0, 1].
    """
    fig = new_figure(6.2, 6.6)
    top, low = fig.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    centres = [(b.lower + b.upper) / 2 for b in bins]
    width = 0.94 * (bins[0].upper - bins[0].lower)
    accuracy = np.array([np.nan if b.accuracy is None else b.accuracy for b in bins])
    confidence = np.array([np.nan if b.confidence is None else b.confidence for b in bins])
    top.bar(centres, accuracy, width, color=PALE, label="accuracy")
    top.vlines(centres, accuracy, confidence, color=RED, linewidth=2.5, label="gap to the mean confidence")
    top.scatter(centres, confidence, 34, color=RED, marker="_", linewidth=2.5, zorder=3)
    top.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="perfect calibration")
    tidy_axes(top, f"Expected calibration error {calibration_error:.3f}")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.legend(frameon=False, fontsize=9, loc="upper left")
    n_images = sum(b.n_images for b in bins)
    low.bar(centres, [b.n_images / max(n_images, 1) for b in bins], width, color=GREY)
    tidy_axes(low, "")
    low.set(xlabel="confidence", ylabel="share of\nimages")
    low.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def per_class_figure(per_class: Mapping[str, ClassGrades]) -> Figure:
    """Return F1, precision, recall and average precision of every class, the best class on top."""
    rows = sorted(per_class.items(), key=lambda item: (item[1].f1 is not None, item[1].f1 or 0.0))
    n = len(rows)
    fig = new_figure(8.6, 1.7 + 0.34 * n)
    ax = fig.add_subplot()
    places = np.arange(n)
    ax.barh(places, [row.f1 or 0 for _, row in rows], 0.62, color=PALE, label="F1")
    points = (("precision", ORANGE, "s"), ("recall", INK, "|"), ("average_precision", GREEN, "D"))
    for key, colour, marker in points:
        values = [np.nan if getattr(row, key) is None else getattr(row, key) for _, row in rows]
        size = 90 if marker == "|" else 26
        name = key.replace("_", " ")
        ax.scatter(values, places, size, color=colour, marker=marker, label=name, zorder=3, clip_on=False)
    for place, (_, row) in enumerate(rows):
        if row.f1 is None:
            ax.text(0.01, place, "not in the test part", va="center", fontsize=9, color=GREY, style="italic")
        ax.text(1.03, place, short_count(row.support), va="center", fontsize=9, color=INK)
    ax.text(1.03, n - 0.35, "images", va="bottom", fontsize=9, color=GREY)
    ax.set_yticks(places, [as_label(name, 30) for name, _ in rows])
    tidy_axes(ax, "")
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 1), ylim=(-0.6, n - 0.4))
    ax.tick_params(axis="y", length=0)
    fig.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return fig


def mistake_caption(true: str, predicted: str, confidence: float) -> str:
    """Return the two lines below a mistake: the true class, and what was answered how surely."""
    return f"{shorten(true, 24)}\n-> {shorten(predicted, 18)} {confidence:.0%}"
