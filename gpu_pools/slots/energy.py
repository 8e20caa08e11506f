"""Adds up what a run takes of a GPU's energy, from samples of the GPU."""

from dataclasses import dataclass

from gpu_pools.placement.devices import GpuSample

_J_PER_WH = 3600.0


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    sample: GpuSample
    n_sharing: int


class EnergyMeter:
    """A run's share of the energy that its GPU draws between the samples, idle power included.

    Where several runs hold the GPU, each bears an equal part of every interval: no counter tells their work apart.
    """

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._joules: float | None = None

    @property
    def wh(self) -> float | None:
        """Watt-hours so far; None: the GPU tells neither its energy nor its power."""
        return None if self._joules is None else self._joules / _J_PER_WH

    def add(self, at: float, sample: GpuSample, n_sharing: int) -> None:
        """Add a sample, and with it the time since the one before.

        Args:
            at: seconds of a clock that never goes back.
            sample: of the GPU.
            n_sharing: runs that hold the GPU, this one included.
        """
        last, self._last = self._last, _Look(at, sample, max(n_sharing, 1))
        if last is None:
            return
        drawn = _drawn(last, self._last)
        if drawn is not None:
            self._joules = (self._joules or 0.0) + drawn / last.n_sharing


def _drawn(before: _Look, now: _Look) -> float | None:
    """Return the joules between two looks: by the GPU's counter, else by the mean of its power."""
    counted = _difference(before.sample.energy_j, now.sample.energy_j)
    if counted is not None:
        return counted
    if before.sample.power_w is None or now.sample.power_w is None:
        return None
    return (before.sample.power_w + now.sample.power_w) / 2 * (now.at - before.at)


def _difference(before: float | None, now: float | None) -> float | None:
    if before is None or now is None or now < before:  # less: the driver was loaded anew, its counter began at 0
        return None
    return now - before
