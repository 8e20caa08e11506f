"""Draws who had which device when: one lane a slot, and below how many runs waited for the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gpu_pools.placement.queues import KINDS
from tasks.accounts.account import Account, by_device, sums, within
from tasks.images.figures import GREY, INK, as_label, save

_COLOURS = ("#4878a8", "#e49444", "#6a9f58", "#a87c9f", "#85b6b2", "#e7ca60", "#967662", "#f1a2a9", "#5b6c8f")
_OTHERS, _FAILED = "#c9c9c4", "#b00020"
_WIDTH_IN, _LANE_IN, _DPI = 14.0, 0.26, 100
_WAITING = 0.9  # lanes; the strip in which the waiting runs are counted
_LEAST_PX = 2.5  # of a bar
_CHARACTER_PX = 6.0  # of a name in a bar
_SHORTEST_NAME, _LONGEST_NAME = 8, 60  # characters
_LEAST_WAIT_S = 1.0  # so long a worker takes to start a run on a free device
_PAUSED = 0.9  # a bar whose run ran for less of its length is hatched


@dataclass(frozen=True, slots=True)
class _Bar:
    account: Account
    lane: int
    begin: float
    end: float


def draw_occupation(
    accounts: Sequence[Account], since: float, until: float, path: Path, title: str, zone: tzinfo = UTC
) -> None:
    """Write a PNG file of the runs that had a device between two times.

    Args:
        accounts: of runs; those outside are left out.
        since, until: Unix seconds.
        path: of the file.
        title: above the picture.
        zone: in which the time axis is.

    Raises:
        StorageError: the file cannot be written.
    """
    accounts = by_device(accounts)
    shown = [account for account in accounts if account.began < until and _end(account, until) > since]
    devices = sorted({account.device for account in shown}, key=_order) or ["no runs"]
    lanes = {device: _lanes([a for a in shown if a.device == device], since, until) for device in devices}
    heights = [max(len(kinds), 1) + _WAITING for kinds, _ in lanes.values()]
    figure = Figure(
        figsize=(_WIDTH_IN, _LANE_IN * sum(heights) + 0.3 * len(heights) + 1.2), dpi=_DPI, layout="constrained"
    )
    grid: Any = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    colours = _colours(shown)
    for axes, (device, (kinds, bars)) in zip(grid[:, 0], lanes.items(), strict=True):
        axes.set_xlim(_days(since), _days(until))
        _draw_bars(axes, bars, colours)
        _draw_waiting(axes, [a for a in accounts if a.device == device], len(kinds), since, until)
        _label(axes, device, kinds, bars, until - since)
    _time_axis(grid[-1, 0], zone, until)
    figure.suptitle(as_label(title, 200), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.legend(
        handles=_legend(shown, colours, since, until), loc="outside lower left", ncols=5, frameon=False, fontsize=9
    )
    save(figure, path)


def _lanes(accounts: Sequence[Account], since: float, until: float) -> tuple[list[str], list[_Bar]]:
    """Return the kind of each lane of a device, and the bars: each in the first lane of its kind that is free."""
    free: list[tuple[str, float]] = []  # of each lane its kind, and from when on it is free
    bars: list[_Bar] = []
    for kind in KINDS:
        first = len(free)
        for account in sorted((a for a in accounts if a.kind == kind), key=lambda a: a.began):
            begin, end = max(account.began, since), min(_end(account, until), until)
            lane = next((n for n in range(first, len(free)) if free[n][1] <= account.began), len(free))
            free[lane : lane + 1] = [(kind, end)]
            bars.append(_Bar(account, lane, begin, end))
    return [kind for kind, _ in free], bars


def _draw_bars(axes: Axes, bars: Sequence[_Bar], colours: Mapping[str, str]) -> None:
    low, high = axes.get_xlim()
    px_per_day = 0.9 * _WIDTH_IN * _DPI / (high - low)
    for bar in bars:
        begin, width = _drawn(bar, low, high, _LEAST_PX / px_per_day)
        axes.barh(
            bar.lane,
            width,
            left=begin,
            height=0.82,
            color=colours.get(bar.account.owner, _OTHERS),
            edgecolor="white",
            linewidth=0.4,
            hatch="////" if _paused(bar.account) else None,
        )
        if bar.account.failed:
            axes.plot([begin + width] * 2, [bar.lane - 0.41, bar.lane + 0.41], color=_FAILED, linewidth=2.2)
        room = min(int(width * px_per_day / _CHARACTER_PX) - 1, _LONGEST_NAME)
        if room >= min(_SHORTEST_NAME, len(bar.account.name)):
            text = as_label(bar.account.name, room)
            on = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5} if _paused(bar.account) else None
            axes.text(begin + 3 / px_per_day, bar.lane, text, va="center", size=8, color=INK, clip_on=True, bbox=on)


def _drawn(bar: _Bar, low: float, high: float, least: float) -> tuple[float, float]:
    """Return where a bar begins and how wide it is, days: a run of seconds is seen, too, also at the right edge."""
    begin, end = _days(bar.begin), _days(bar.end)
    if end - begin >= least:
        return begin, end - begin
    return max(low, min(begin, high - least)), least


def _draw_waiting(axes: Axes, accounts: Sequence[Account], n_lanes: int, since: float, until: float) -> None:
    """Draw, below the lanes of a device, how many of its runs waited; the highest number is written beside."""
    times, counts = _waiting(accounts, since, until)
    if not (most := max(counts)):
        return
    base = n_lanes - 0.5 + _WAITING
    heights = [base - (_WAITING - 0.15) * count / most for count in counts]
    axes.fill_between([_days(at) for at in times], heights, base, step="post", color=GREY, alpha=0.55, linewidth=0)
    axes.annotate(
        f"up to {most} waiting" if most > 1 else "1 waiting",
        (1.003, base - _WAITING / 2),
        xycoords=("axes fraction", "data"),
        va="center",
        size=8,
        color=GREY,
        annotation_clip=False,
    )


def _waiting(accounts: Sequence[Account], since: float, until: float) -> tuple[list[float], list[int]]:
    """Return times, and how many runs waited from each of them on, without those whose turn it was at once."""
    late = [account for account in accounts if account.waited_s >= _LEAST_WAIT_S]
    waited = [(max(a.asked, since), min(a.began, until)) for a in late if a.asked < until and a.began > since]
    times = sorted({since, until, *(moment for pair in waited for moment in pair)})
    begins, ends = np.sort([begin for begin, _ in waited]), np.sort([end for _, end in waited])
    counts = np.searchsorted(begins, times, "right") - np.searchsorted(ends, times, "right")
    return times, [int(count) for count in counts]


def _label(axes: Axes, device: str, kinds: Sequence[str], bars: Sequence[_Bar], span: float) -> None:
    n_lanes = max(len(kinds), 1)
    axes.set_ylim(n_lanes - 0.5 + _WAITING, -0.5)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.tick_params(axis="y", length=0, labelsize=8, colors=GREY)
    axes.set_title(
        f"{as_label(device, 60)}: in use {_held(bars) / span:.0%} of the time", loc="left", fontsize=9, pad=3
    )
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _time_axis(axes: Axes, zone: tzinfo, until: float) -> None:
    locator = AutoDateLocator(tz=zone, minticks=5, maxticks=14)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))
    axes.tick_params(axis="x", labelsize=9)
    axes.set_xlabel(f"time, {datetime.fromtimestamp(until, zone):%Z}", fontsize=9)


def _colours(accounts: Sequence[Account]) -> dict[str, str]:
    """Return the colours of the owners that had most; the others have one together."""
    ordered = sorted(sums(accounts, "owner"), key=lambda one: (-one.gpu_hours, -one.hours))
    return {one.name: colour for one, colour in zip(ordered, _COLOURS, strict=False)}


def _legend(accounts: Sequence[Account], colours: Mapping[str, str], since: float, until: float) -> list[Artist]:
    hours = {one.name: one for one in sums(within(accounts, since, until), "owner")}
    handles: list[Artist] = [
        Patch(color=colour, label=as_label(f"{name} ({hours[name].gpu_hours:.1f} GPU hours)", 44))
        for name, colour in colours.items()
    ]
    if others := len(hours.keys() - colours.keys()):
        handles.append(Patch(color=_OTHERS, label=f"{others} others"))
    if any(account.failed for account in accounts):
        handles.append(Line2D([], [], color=_FAILED, linewidth=2.2, label="failed"))
    if any(account.waited_s >= _LEAST_WAIT_S for account in accounts):
        handles.append(Patch(color=GREY, alpha=0.55, label="runs that waited for the device"))
    if any(_paused(account) for account in accounts):
        handles.append(Patch(facecolor=_OTHERS, edgecolor="white", hatch="////", label="waited in between"))
    return handles


def _held(bars: Sequence[_Bar]) -> float:
    """Return the seconds in which at least one run had the device."""
    held, free_from = 0.0, float("-inf")
    for bar in sorted(bars, key=lambda bar: bar.begin):
        held += max(0.0, bar.end - max(bar.begin, free_from))
        free_from = max(free_from, bar.end)
    return held


def _paused(account: Account) -> bool:
    """Return whether a run has waited to go on for a good part of its time."""
    return account.ended is not None and account.ran_s < _PAUSED * (account.ended - account.began) - 60


def _order(device: str) -> tuple[bool, bool, str]:
    """Sorts GPUs before the CPU, and those of this host first."""
    return device.endswith("cpu"), "/" in device, device


def _end(account: Account, until: float) -> float:
    return until if account.ended is None else account.ended


def _days(seconds: float) -> float:
    return float(date2num(datetime.fromtimestamp(seconds, UTC)))
