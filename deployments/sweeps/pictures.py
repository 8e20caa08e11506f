"""Draws what a sweep has found: the trials over their parameters, and which parameter mattered."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from deployments.sweeps.objective import Objective
from deployments.sweeps.space import Choices, Range, Space, Value
from deployments.sweeps.study import Study, Trial, quietly
from tasks.images.figures import BLUE, GREY, as_label, new_figure, save, shorten, tidy_axes

PARALLEL, IMPORTANCE = "parallel_coordinates.png", "importance.png"
_FEWEST = 4  # complete trials of which something can be said on what mattered


def draw_all(folder: Path, study: Study, space: Space, objective: Objective) -> list[Path]:
    """Draw both pictures into a folder, each where there are trials enough for it; return the files."""
    complete = [trial for trial in study.trials() if trial.value is not None and math.isfinite(trial.value)]
    pictures = {}
    if complete:
        pictures[folder / PARALLEL] = parallel_coordinates(complete, space, objective)
    if len(complete) >= _FEWEST and (shares := importances(study)):
        pictures[folder / IMPORTANCE] = importance_bars(shares, objective)
    for path, picture in pictures.items():
        save(picture, path)
    return list(pictures)


def importances(study: Study) -> dict[str, float]:
    """Return parameter -> its share of what made the best trials better, in [0, 1], the largest first; empty: nothing
    can be said, as all trials are alike, or so many of them that the best tenth is all.

    Source: Watanabe et al. 2023, PED-ANOVA (arXiv:2304.10255).
    """
    try:
        with quietly(), warnings.catch_warnings():
            warnings.filterwarnings("error", "Target and region quantiles select the same", UserWarning)
            found = get_param_importances(study.optuna, evaluator=PedAnovaImportanceEvaluator())
    except UserWarning:  # all count as the best ones: their shares would be equal whatever mattered
        return {}
    shares = {name: float(share) for name, share in found.items() if math.isfinite(share)}
    return shares if sum(shares.values()) > 0 else {}


def parallel_coordinates(trials: Sequence[Trial], space: Space, objective: Objective) -> Figure:
    """Return a picture with an axis for each parameter, the metric last, and a line for each trial.

    Args:
        trials: complete ones, at least one.
        space: what was searched.
        objective: what they are compared by; better lines are darker and lie above.
    """
    # The first of equals counts as the best one, so it comes last here.
    latest_first = sorted(trials, key=lambda trial: trial.number, reverse=True)
    order = sorted(latest_first, key=lambda trial: trial.value or 0.0, reverse=objective.direction == "minimize")
    values = np.array([trial.value for trial in order])  # (N,)
    heights = np.array([[_height(trial.values[name], space[name]) for name in space] for trial in order])  # (N, P)
    spread = float(np.ptp(values)) or 1.0
    heights = np.column_stack([heights, (values - values.min()) / spread])
    figure = new_figure(max(6.0, 1.9 * heights.shape[1]), 4.6)
    axes = figure.add_subplot()
    for rank, row in enumerate(heights):
        share = rank / max(1, len(order) - 1)
        axes.plot(row, color=colormaps["viridis_r"](share), linewidth=1 + 1.5 * share, alpha=0.4 + 0.6 * share)
    for at, name in enumerate(space):
        _axis(axes, at, as_label(name, 26), _ends(space[name]))
    ends = {f"{values.max():.4g}": 1.0, f"{values.min():.4g}": 0.0}  # one where all are alike
    _axis(axes, len(space), as_label(objective.metric, 26), [(height, text) for text, height in ends.items()])
    axes.set_xlim(-0.3, len(space) + 0.6)
    axes.set_ylim(-0.05, 1.05)
    axes.set_axis_off()
    axes.set_title(f"{len(trials)} complete trials; the darkest line is the best one", loc="left", fontsize=11, pad=28)
    return figure


def _axis(axes: Any, at: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(at, 0.045, 0.955, color=GREY, linewidth=0.8, zorder=0)
    axes.text(at, 1.07, name, ha="center", va="bottom", fontsize=9, weight="bold")
    for height, text in ticks:
        label = axes.text(at + 0.03, height, as_label(text, 18), ha="left", va="center", fontsize=8, color=GREY)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})  # lines run below it


def _height(value: Value, values: Range | Choices) -> float:
    """Return where a value lies on its axis, 0 to 1."""
    if isinstance(values, Choices):
        return values.values.index(value) / (len(values.values) - 1)
    assert isinstance(value, int | float)
    low, high, at = (math.log(x) if values.log else x for x in (values.low, values.high, value))
    return (at - low) / (high - low)


def _ends(values: Range | Choices) -> list[tuple[float, str]]:
    if isinstance(values, Choices):
        return [(_height(value, values), str(value)) for value in values.values]
    return [(0.0, f"{values.low:g}"), (1.0, f"{values.high:g}")]


def importance_bars(shares: Mapping[str, float], objective: Objective) -> Figure:
    """Return a picture with a bar for each parameter, the most important one at the top."""
    figure = new_figure(7.0, 1.4 + 0.4 * len(shares))
    axes = figure.add_subplot()
    rows = list(shares.items())[::-1]
    names = [shorten(name, 34) for name, _ in rows]
    bars = axes.barh(names, [share for _, share in rows], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_xlim(0, 1.1)
    tidy_axes(axes, f"Share in what made {objective.metric} better among the best trials (PED-ANOVA)")
    return figure
