"""Forecasts how much of a GPU's memory a run will take, from what runs like it have taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_pools.sharing.memory_settings import MemorySetting

_STEPS = 60  # by each of which the interval of the fixed part loses a third
_GIB = 1024.0
_ROUND = 10


@dataclass(frozen=True, slots=True)
class Peak:
    """The most of a GPU's memory, MiB, that the processes of a run have held at once."""

    run_id: str
    setting: MemorySetting
    mib: int


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a run will take, MiB, and how that is known: "measured in 3 runs"."""

    mib: int
    source: str

    def text(self) -> str:
        """Return "about 14 GB (measured in 3 runs)"."""
        return f"about {memory_text(self.mib)} ({self.source})"


def memory_text(mib: float) -> str:
    """Return GPU memory, MiB, as cards are sold: 8.1 GB, 14 GB."""
    gib = mib / _GIB
    return f"{gib:.0f} GB" if gib >= _ROUND else f"{gib:.1f} GB"


def forecast(setting: MemorySetting, peaks: Sequence[Peak]) -> MemoryNeed | None:
    """Return what a run will take; None: nothing is known that would tell.

    A setting that was measured takes the most that was. Else peak = fixed(model) + rate(model, precision) x size, both
    parts not negative, is fitted to the runs of the model by least squares. Where all of them have one size, the fixed
    part is not known: what is larger takes in proportion more, what is smaller the same, which is the most that both
    can be.

    Args:
        setting: of the run.
        peaks: what was measured, of any setting.
    """
    same = [peak.mib for peak in peaks if peak.setting == setting]
    if same:
        return MemoryNeed(max(same), f"measured in {_runs(len(same))}")
    size = setting.size
    rates: dict[str, list[tuple[float, int]]] = {}
    for peak in peaks:
        if peak.setting.model == setting.model and peak.setting.size is not None:
            rates.setdefault(peak.setting.rate, []).append((peak.setting.size, peak.mib))
    alike = rates.get(setting.rate)
    if size is None or not alike:
        return None
    if any(len({x for x, _ in points}) > 1 for points in rates.values()):
        fixed = _fixed(rates)
        sizes = [x for x, _ in alike]
        how = "interpolated" if min(sizes) <= size <= max(sizes) else "extrapolated"
        n_runs = sum(map(len, rates.values()))
        return MemoryNeed(round(fixed + _slope(alike, fixed) * size), f"{how} from {_runs(n_runs)}")
    known, most = alike[0][0], max(mib for _, mib in alike)
    return MemoryNeed(round(most * max(1.0, size / known)), f"scaled from {_runs(len(alike))}")


def _runs(n: int) -> str:
    return f"{n} run{'s' * (n > 1)}"


def _fixed(rates: Mapping[str, Sequence[tuple[float, int]]]) -> float:
    """Return the fixed part, MiB, with which the errors' squares are least: they are a convex function of it."""
    low, high = 0.0, float(max(mib for points in rates.values() for _, mib in points))
    for _ in range(_STEPS):
        third = (high - low) / 3
        if _error(rates, low + third) <= _error(rates, high - third):
            high -= third
        else:
            low += third
    return (low + high) / 2


def _slope(points: Sequence[tuple[float, int]], fixed: float) -> float:
    """Return the part that grows, MiB per unit of size, that fits best beside a fixed part; not negative."""
    return max(0.0, sum(x * (mib - fixed) for x, mib in points) / sum(x * x for x, _ in points))


def _error(rates: Mapping[str, Sequence[tuple[float, int]]], fixed: float) -> float:
    return sum(
        (mib - fixed - slope * x) ** 2
        for points in rates.values()
        for slope in [_slope(points, fixed)]
        for x, mib in points
    )
