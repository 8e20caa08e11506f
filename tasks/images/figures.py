"""Draws galleries and confusion matrices, and writes figures whole."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from tasks.base.workspace import write_atomic

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
    fig = new_figure(side + 2.6, side + 1.9)
    ax = fig.add_subplot()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [as_label(name, 22) for name in class_names]
    ax.set_xticks(range(n), labels, rotation=45 if n <= 12 else 90, ha="right" if n <= 12 else "center")
    ax.set_yticks(range(n), labels)
    ax.tick_params(length=0, labelsize=10 if n <= 12 else 9)
    for row, column in np.argwhere(confusion):
        colour = "white" if shares[row, column] > 0.55 else INK
        count = short_count(int(confusion[row, column]))
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
    fig = new_figure(max(1.9 * columns, 4), row_height * rows + (0.45 if title else 0))
    for place, ax in enumerate(fig.subplots(rows, columns, squeeze=False).flat):
        ax.set_axis_off()
        if place < len(images):
            ax.imshow(_thumbnail(images[place]), cmap="gray", vmin=0, vmax=255)
            lines = [as_label(line, 28) for line in captions[place].split("\n")]
            ax.set_title("\n".join(lines), fontsize=8, y=0, va="top", pad=-4)
    if not images:
        fig.axes[0].text(0.5, 0.5, "nothing to show", ha="center", va="center", color=GREY)
    if title:
        fig.suptitle(as_label(title, 90), fontsize=12, color=INK)
    return fig


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that no other thread can see, as pyplot's could be."""
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def tidy_axes(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=11, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)


def short_count(value: int) -> str:
    """Return a count in at most four characters: 999, 1.2k, 35k, 2M."""
    if value < 1000:
        return str(value)
    if value < 999_500:
        return f"{value / 1000:.1f}k" if value < 9950 else f"{value / 1000:.0f}k"
    return f"{value / 1e6:.1f}M" if value < 9_950_000 else f"{value / 1e6:.0f}M"


def shorten(name: str, length: int) -> str:
    """Return the name in at most `length` characters, the middle left out: the ends tell names apart."""
    if len(name) <= length:
        return name
    head = (length - 2) // 2
    return f"{name[:head]}..{name[len(name) - (length - 2 - head) :]}"


def as_label(name: str, length: int) -> str:
    """Return the name cut, on one line, as matplotlib takes it literally: `$` would begin a formula."""
    line = " ".join(name.split()).encode("utf-8", "backslashreplace").decode()
    return shorten(line, length).replace("$", r"\$")


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = MAX_CELL_PX / max(image.shape[:2])
    if scale >= 1:
        return image
    size = tuple(max(1, round(scale * side)) for side in image.shape[1::-1])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
