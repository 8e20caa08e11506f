"""Draws the gallery of a prediction, and its timeline of classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.images.figures import DPI, INK, gallery_figure
from tasks.images.prepare import Rgb
from tasks.inference.predictor import Answer

GALLERY, TIMELINE = "gallery.png", "timeline.png"
_SHOWN = 24
_CELL_PX = 256


@dataclass(slots=True)
class Gallery:
    """A sample of a few answers out of any number, each as likely as the others; the same for the same answers."""

    images: list[Rgb] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    _seen: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, answer: Answer, row: Mapping[str, Any]) -> None:
        """Consider an answer; those without an image are not shown."""
        if (pixels := answer.pixels) is not None:
            caption = f"{row['class']}\n{row['probability']:.0%}"
            self.offer(lambda: in_proportion(pixels, answer.size), caption)

    def offer(self, make: Callable[[], Rgb], caption: str) -> None:
        """Consider an image (H, W, 3), which is made only where it is shown."""
        self._seen += 1
        place = len(self.images) if self._seen <= _SHOWN else int(self._rng.integers(self._seen))
        if place >= _SHOWN:
            return
        shown = make()
        if place == len(self.images):
            self.images.append(shown)
            self.captions.append(caption)
        else:
            self.images[place], self.captions[place] = shown, caption

    def figure(self, title: str) -> Figure:
        """Return the sample as one image."""
        return gallery_figure(self.images, self.captions, title=title)


def in_proportion(pixels: Rgb, size: tuple[int, int]) -> Rgb:
    """Return (S, S, 3), which the model's preparation has squashed, with the sides in proportion to `size` again."""
    share = _CELL_PX / max(size)
    target = max(1, round(size[0] * share)), max(1, round(size[1] * share))
    return np.asarray(cv2.resize(pixels, target, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def timeline_figure(times: Sequence[float], names: Sequence[str], probabilities: Sequence[float]) -> Figure:
    """Return the class over time, coloured by how sure the model was.

    Args:
        times: seconds since the start, rising.
        names: the class at each time.
        probabilities: of that class, in [0, 1].
    """
    shown = sorted(set(names))
    place = {name: number for number, name in enumerate(shown)}
    fig = Figure(figsize=(11, 1.8 + 0.4 * len(shown)), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    ax = fig.add_subplot()
    rows = [place[name] for name in names]
    ax.step(times, rows, where="post", color="#DDDDDD", linewidth=1)
    dots = ax.scatter(times, rows, 18, c=probabilities, cmap="viridis", vmin=0, vmax=1, zorder=3)
    # As gallery_figure: `$` would begin a formula.
    ax.set_yticks(range(len(shown)), [" ".join(name.split())[:30].replace("$", r"\$") for name in shown])
    ax.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    ax.set_xlabel("seconds since the start")
    ax.set_title(f"{len(times)} images", loc="left", fontsize=11, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#E5E5E5")
    fig.colorbar(dots, ax=ax, label="probability")
    return fig
