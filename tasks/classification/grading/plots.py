"""Draws the figures of a training and its test with matplotlib."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from tasks.base.workspace import write_atomic
from tasks.classification.grading.evaluate import CalibrationBin
from tasks.classification.grading.metrics import ClassGrades

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
"""Okabe and Ito 2008, Color Universal Design: told apart with any kind of colour vision."""

PALE, INK, GREY = "#A9CCE3", "#222222", "#757575"

CJK_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
)
DPI = 130
MAX_CELL_PX = 256
"""A gallery cell is about this wide on the page; larger images only cost time."""

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


def save(fig: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    installed = set(fontManager.get_font_names())
    families = ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]
    for text in fig.findobj(Text):
        text.set_fontfamily(families)
    png = BytesIO()
    # Without the version of matplotlib in it, the same figure gives the same bytes.
    fig.savefig(png, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    write_atomic(path, png.getvalue())


def confusion_matrix_figure(confusion: NDArray[np.integer], class_names: Sequence[str]) -> Figure:
    """Return the confusion matrix: counts as numbers, the share of the true class as colour.

    Args:
        confusion: (C, C) images; row = true class, column = predicted class.
        class_names: C, in the order of the rows.
    """
    n = len(class_names)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)  # (C, C)
    side = float(np.clip(0.46 * n, 3.2, 15))
    font = float(np.clip(72 * side / n * 0.27, 5, 11))
    fig = _figure(side + 2.6, side + 1.9)
    ax = fig.add_subplot()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [_label(name, 22) for name in class_names]
    ax.set_xticks(range(n), labels, rotation=45 if n <= 12 else 90, ha="right" if n <= 12 else "center")
    ax.set_yticks(range(n), labels)
    ax.tick_params(length=0, labelsize=10 if n <= 12 else 9)
    for row, column in np.argwhere(confusion):
        colour = "white" if shares[row, column] > 0.55 else INK
        count = _count(int(confusion[row, column]))
        # Inside the axes anyway: to measure 1600 of them for the layout would take seconds.
        ax.text(column, row, count, ha="center", va="center", size=font, color=colour, in_layout=False)
    ax.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#DDDDDD", linewidth=0.6)
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    right, n_images = int(np.trace(confusion)), int(confusion.sum())
    ax.set_title(f"{right:,} of {n_images:,} right ({right / max(n_images, 1):.1%})", color=INK)
    bar = fig.colorbar(image, ax=ax, fraction=0.046, pad=0.03, format=PercentFormatter(1))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return fig


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
    fig = _figure(11, 7)
    for ax, (title, curves) in zip(fig.subplots(2, 2).flat, CURVES, strict=True):
        for key, name, colour, style in curves:
            values = [np.nan if row.get(key) is None else float(row[key]) for row in history]
            if np.isfinite(values).any():
                marker = "o" if len(epochs) <= 30 and style == "-" else ""
                ax.plot(epochs, values, style, color=colour, marker=marker, markersize=3.5, label=name)
        if best_epoch is not None:
            ax.axvline(best_epoch, color=ORANGE, linewidth=1.4, zorder=1.5, label=f"best epoch ({best_epoch})")
        _tidy(ax, title)
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
    fig = _figure(6.2, 6.6)
    top, low = fig.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    centres = [(b.lower + b.upper) / 2 for b in bins]
    width = 0.94 * (bins[0].upper - bins[0].lower)
    accuracy = np.array([np.nan if b.accuracy is None else b.accuracy for b in bins])
    confidence = np.array([np.nan if b.confidence is None else b.confidence for b in bins])
    top.bar(centres, accuracy, width, color=PALE, label="accuracy")
    top.vlines(centres, accuracy, confidence, color=RED, linewidth=2.5, label="gap to the mean confidence")
    top.scatter(centres, confidence, 34, color=RED, marker="_", linewidth=2.5, zorder=3)
    top.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="perfect calibration")
    _tidy(top, f"Expected calibration error {calibration_error:.3f}")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.legend(frameon=False, fontsize=9, loc="upper left")
    n_images = sum(b.n_images for b in bins)
    low.bar(centres, [b.n_images / max(n_images, 1) for b in bins], width, color=GREY)
    _tidy(low, "")
    low.set(xlabel="confidence", ylabel="share of\nimages")
    low.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def per_class_figure(per_class: Mapping[str, ClassGrades]) -> Figure:
    """Return F1, precision, recall and average precision of every class, the best class on top."""
    rows = sorted(per_class.items(), key=lambda item: (item[1].f1 is not None, item[1].f1 or 0.0))
    n = len(rows)
    fig = _figure(8.6, 1.7 + 0.34 * n)
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
        ax.text(1.03, place, _count(row.support), va="center", fontsize=9, color=INK)
    ax.text(1.03, n - 0.35, "images", va="bottom", fontsize=9, color=GREY)
    ax.set_yticks(places, [_label(name, 30) for name, _ in rows])
    _tidy(ax, "")
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 1), ylim=(-0.6, n - 0.4))
    ax.tick_params(axis="y", length=0)
    fig.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return fig


def gallery_figure(
    images: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int = 6, *, title: str = ""
) -> Figure:
    """Return the images in rows, each with its caption below.

    Args:
        images: each (H, W, 3) RGB, or (H, W) grey; of any size.
        captions: one per image, of one or two lines.
        columns: at least 1.
        title: above all.
    """
    if len(images) != len(captions):
        raise ValueError(f"found {len(captions)} captions for {len(images)} images, need one each")
    columns = min(columns, max(len(images), 1))
    rows = -(-max(len(images), 1) // columns)
    shape = float(np.median([image.shape[0] / image.shape[1] for image in images])) if images else 0.5
    row_height = 1.9 * float(np.clip(shape, 0.4, 1.6)) + 0.5
    fig = _figure(max(1.9 * columns, 4), row_height * rows + (0.45 if title else 0))
    for place, ax in enumerate(fig.subplots(rows, columns, squeeze=False).flat):
        ax.set_axis_off()
        if place < len(images):
            ax.imshow(_thumbnail(images[place]), cmap="gray", vmin=0, vmax=255)
            lines = [_label(line, 28) for line in captions[place].split("\n")]
            ax.set_title("\n".join(lines), fontsize=8, y=0, va="top", pad=-4)
    if not images:
        fig.axes[0].text(0.5, 0.5, "nothing to show", ha="center", va="center", color=GREY)
    if title:
        fig.suptitle(_label(title, 90), fontsize=12, color=INK)
    return fig


def mistake_caption(true: str, predicted: str, confidence: float) -> str:
    """Return the two lines below a mistake: the true class, and what was answered how surely."""
    return f"{_cut(true, 24)}\n-> {_cut(predicted, 18)} {confidence:.0%}"


def _figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that no other thread can see, as pyplot's could be."""
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def _tidy(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=11, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)


def _count(value: int) -> str:
    """Return a count in at most four characters: 999, 1.2k, 35k, 2M."""
    if value < 1000:
        return str(value)
    if value < 999_500:
        return f"{value / 1000:.1f}k" if value < 9950 else f"{value / 1000:.0f}k"
    return f"{value / 1e6:.1f}M" if value < 9_950_000 else f"{value / 1e6:.0f}M"


def _cut(name: str, length: int) -> str:
    """Return the name in at most `length` characters, the middle left out: the ends tell names apart."""
    if len(name) <= length:
        return name
    head = (length - 2) // 2
    return f"{name[:head]}..{name[len(name) - (length - 2 - head) :]}"


def _label(name: str, length: int) -> str:
    """Return the name cut, on one line, as matplotlib takes it literally: `$` would begin a formula."""
    line = " ".join(name.split()).encode("utf-8", "backslashreplace").decode()
    return _cut(line, length).replace("$", r"\$")


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = MAX_CELL_PX / max(image.shape[:2])
    if scale >= 1:
        return image
    size = tuple(max(1, round(scale * side)) for side in image.shape[1::-1])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
