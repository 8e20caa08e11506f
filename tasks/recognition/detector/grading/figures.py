"""Draws what a detector finds: curves of precision and recall, learning curves, and scenes with boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tasks.images.figures import INK, PALE, as_label, new_figure, tidy_axes
from tasks.recognition.detector.finding import Truth
from tasks.recognition.detector.grading.detections import Detections
from tasks.recognition.detector.grading.grades import Grades
from tasks.recognition.detector.grading.matching import CROWD, NOBODY, match

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]
CELL = 420
"""Pixels on a side of a scene in the gallery."""
RIGHT, WRONG, MISSED, IGNORED = (40, 160, 70), (215, 45, 45), (245, 170, 0), (150, 150, 150)
"""Colours of boxes, RGB."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def precision_recall_figure(grades: Grades) -> Figure:
    """Return precision over recall of each part, a dot where the working threshold is."""
    fig = new_figure(8.6, 6.0)
    ax = fig.add_subplot()
    colours = [f"C{number}" for number in range(10)]
    for number, (name, curve) in enumerate(grades.curves.items()):
        if not curve.n_truth:
            continue
        part, colour = grades.per_part[name], colours[number % 10]
        style = "-" if number < 10 else "--"
        label = f"{as_label(name, 24)}  {part.ap50 or 0:.2f}"
        # From a recall of 0 on; a part that was never answered has no curve.
        recall, precision = (
            np.append(0 * curve.recall[:1], curve.recall),
            np.append(curve.precision[:1], curve.precision),
        )
        ax.plot(recall, precision, style, color=colour, linewidth=1.6, label=label)
        if part.precision is not None:
            ax.plot(part.recall or 0, part.precision, "o", color=colour, markersize=6)
    tidy_axes(ax, f"mAP@50 {grades.map50:.3f}; dots: threshold {grades.threshold:.2f}")
    ax.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    if ax.get_legend_handles_labels()[0]:
        fig.legend(loc="outside right upper", frameon=False, fontsize=9, title="AP@50")
    return fig


def learning_curves_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Return losses, average precision and learning rate over the epochs.

    Args:
        history: a row for each epoch, as in finished.json: `metrics` as `EpochMetrics` has them.
    """
    rows = [row["metrics"] for row in history]
    epochs = [row["epoch"] for row in rows]
    fig = new_figure(11.5, 3.8)
    losses, precision, rates = fig.subplots(1, 3)
    for name in rows[0]["losses"]:
        losses.plot(epochs, [row["losses"][name] for row in rows], marker="o", markersize=3, label=as_label(name, 24))
    precision.plot(epochs, [row["map50"] for row in rows], marker="o", markersize=3, label="mAP@50")
    precision.plot(epochs, [row["map"] for row in rows], marker="o", markersize=3, label="mAP@50:95")
    rates.plot(epochs, [row["learning_rate"] for row in rows], color=INK)
    for ax, title in (
        (losses, "Loss, training"),
        (precision, "Average precision, validation"),
        (rates, "Learning rate"),
    ):
        tidy_axes(ax, title)
        ax.set_xlabel("epoch")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=9)
    return fig


def per_part_figure(grades: Grades) -> Figure:
    """Return average precision, recall and precision of every part, the best on top."""
    rows = sorted(grades.per_part.items(), key=lambda item: item[1].ap50 if item[1].ap50 is not None else -1.0)
    fig = new_figure(8.6, 1.7 + 0.34 * len(rows))
    ax = fig.add_subplot()
    places = np.arange(len(rows))
    ax.barh(places, [part.ap50 or 0 for _, part in rows], 0.62, color=PALE, label="AP@50")
    for key, colour, marker in (("ap", "C1", "D"), ("recall", INK, "|"), ("precision", "C2", "s")):
        values = [np.nan if getattr(part, key) is None else getattr(part, key) for _, part in rows]
        label = "AP@50:95" if key == "ap" else key
        ax.scatter(values, places, 80 if marker == "|" else 24, color=colour, marker=marker, label=label, zorder=3)
    ax.set_yticks(places, [f"{as_label(name, 30)}  ({part.n})" for name, part in rows])
    tidy_axes(ax, "")
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 1.01), ylim=(-0.6, len(rows) - 0.4))
    fig.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return fig


def n_faults(found: Detections, truth: Truth, threshold: float) -> int:
    """Return how many answers are wrong, and parts missed, on an image."""
    whose = match(found.above(threshold), truth, by_class=True)
    return int((whose == NOBODY).sum() + (~truth[2]).sum() - (whose >= 0).sum())


def draw_scene(pixels: Rgb, found: Detections, truth: Truth, threshold: float, classes: Sequence[str]) -> Rgb:
    """Return a scene on a square of `CELL` pixels: right answers green, wrong ones red, missed parts amber.

    Args:
        pixels: (H, W, 3).
        found, truth: boxes as shares of the longer side.
        threshold: answers below are not drawn.
        classes: names of the parts.
    """
    scale = CELL / max(pixels.shape[:2])
    square = np.full((CELL, CELL, 3), 255, np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation)[:CELL, :CELL]
    square[: resized.shape[0], : resized.shape[1]] = resized
    sure = found.above(threshold)
    whose = match(sure, truth, by_class=True)
    boxes, labels, crowds = truth
    for number in np.flatnonzero(~crowds):
        if number not in whose:
            _box(square, boxes[number], MISSED, classes[labels[number]], below=True)
    for box, score, label, part in zip(sure.boxes, sure.scores, sure.labels, whose, strict=True):
        colour = IGNORED if part == CROWD else WRONG if part == NOBODY else RIGHT
        _box(square, box, colour, f"{classes[label]} {score:.2f}")
    return square


def _box(square: Rgb, box: NDArray[np.float32], colour: Colour, text: str, *, below: bool = False) -> None:
    left, top, right, bottom = (int(round(float(value) * CELL)) for value in box)
    cv2.rectangle(square, (left, top), (right, bottom), colour, 2)
    text = text.encode("ascii", "replace").decode()  # OpenCV's letters are ASCII
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.42, 1)
    x = min(max(left, 0), max(CELL - width - 4, 0))
    y = min(bottom + height + 6, CELL - 3) if below else max(top - 4, height + 4)
    cv2.rectangle(square, (x, y - height - 4), (x + width + 4, y + 3), colour, -1)
    cv2.putText(square, text, (x + 2, y), _FONT, 0.42, (255, 255, 255), 1, cv2.LINE_AA)


def sheet(cells: Sequence[Rgb], columns: int = 4) -> Rgb:
    """Return cells of one size side by side, in rows; at least one cell."""
    gap = 6
    side = cells[0].shape[0] + gap
    n_rows = -(-len(cells) // columns)
    page = np.full((n_rows * side - gap, min(columns, len(cells)) * side - gap, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = side * (number // columns), side * (number % columns)
        page[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return page
