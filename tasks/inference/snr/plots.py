"""Draws accuracy over signal-to-noise ratio, and the confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tasks.images.figures import BLUE, DPI, GREEN, GREY, INK, ORANGE, RED
from tasks.inference.snr.benchmark import SnrGrade, curves

COLOURS = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9", INK)
MARKERS = "osD^vPX"
MAX_CELLS = 24


def snr_curves_figure(
    grades: Sequence[SnrGrade], n_classes: int, measure: Literal["accuracy", "f1_macro"] = "accuracy"
) -> Figure:
    """Return accuracy (with its 95 % interval) or macro F1 over SNR, a curve per model and colour map.

    Args:
        grades: of all models and SNRs.
        n_classes: whose guessing is drawn as a line.
        measure: what goes upwards.
    """
    fig = Figure(figsize=(9, 5.2), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    ax = fig.add_subplot()
    lines = curves(grades)
    for number, (name, curve) in enumerate(lines.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        x = [one.snr_db for one in curve]
        ax.plot(x, [getattr(one, measure) for one in curve], color=colour, marker=marker, markersize=4.5, label=name)
        if measure == "accuracy":
            ax.fill_between(x, [one.low for one in curve], [one.high for one in curve], color=colour, alpha=0.15, lw=0)
    if measure == "accuracy":
        ax.axhline(1 / n_classes, color=GREY, linestyle=":", label=f"one of {n_classes} at random")
    _tidy(ax)
    ax.set(xlabel="SNR, dB", ylabel="accuracy" if measure == "accuracy" else "macro F1", ylim=(0, 1.02))
    title = "Accuracy over SNR, 95 % interval" if measure == "accuracy" else "Macro F1 over SNR"
    ax.set_title(title, loc="left", fontsize=11, color=INK)
    ax.legend(frameon=False, fontsize=9, loc="best")
    return fig


def snr_confusion_figure(curve: Sequence[SnrGrade], class_names: Sequence[str]) -> Figure:
    """Return the confusion matrices of one curve side by side, the share of the true class as colour.

    Args:
        curve: of one model, along SNR; of more than 24 SNRs every second, third ... is drawn.
        class_names: C, in the order of the rows.
    """
    shown = curve[:: -(-len(curve) // MAX_CELLS)]
    columns = min(7, len(shown))
    rows = -(-len(shown) // columns)
    fig = Figure(figsize=(2.1 * columns + 1.6, 2.2 * rows + 0.9), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    for place, ax in enumerate(fig.subplots(rows, columns, squeeze=False).flat):
        if place >= len(shown):
            ax.set_axis_off()
            continue
        one = shown[place]
        shares = one.confusion / np.maximum(one.confusion.sum(axis=1, keepdims=True), 1)  # (C, C)
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(f"{one.snr_db:g} dB: {one.accuracy:.0%}", fontsize=9, color=INK)
        few = len(class_names) <= 12
        ax.set_yticks(range(len(class_names)) if few and not place % columns else [])
        ax.set_xticks(range(len(class_names)) if few and place >= len(shown) - columns else [])
        if few:
            names = [_plain(name) for name in class_names]
            ax.set_yticklabels(names if not place % columns else [], fontsize=7)
            ax.set_xticklabels(names if place >= len(shown) - columns else [], fontsize=7, rotation=90)
        ax.tick_params(length=0)
    fig.suptitle(f"{_plain(one_name(curve))}: rows are the true class, columns the answer", fontsize=11, color=INK)
    return fig


def one_name(curve: Sequence[SnrGrade]) -> str:
    """Return the name of a curve."""
    (name,) = curves(curve)
    return name


def figures_of(grades: Sequence[SnrGrade], classes: Mapping[str, Sequence[str]]) -> dict[str, Figure]:
    """Return every image of a benchmark by the name of its file.

    Args:
        grades: of all models and SNRs.
        classes: of each model, in the order of its head.
    """
    n_classes = max(len({int(row) for one in grades for row in np.flatnonzero(one.confusion.sum(axis=1))}), 2)
    figures = {
        "accuracy.png": snr_curves_figure(grades, n_classes),
        "f1_macro.png": snr_curves_figure(grades, n_classes, "f1_macro"),
    }
    for number, curve in enumerate(curves(grades).values(), 1):
        figures[f"confusion_{number:02d}.png"] = snr_confusion_figure(curve, classes[curve[0].model])
    return figures


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _plain(name: str) -> str:
    """Return a name as matplotlib takes it literally: `$` would begin a formula."""
    return name.replace("$", r"\$")
