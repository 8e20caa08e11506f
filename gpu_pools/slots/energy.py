"""Adds up what a run takes of a GPU's energy, from samples of the GPU."""

from gpu_pools.placement.devices import GpuSample

_J_PER_WH = 3600.0


class EnergyMeter:
    """A run's share of the energy that its GPU draws between the samples, idle power included.

    Where several runs hold the GPU, each bears an equal part of every interval: no counter tells their work apart.
    """

    def __init__(self) -> None:
        self._last: tuple[float, GpuSample, int] | None = None
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
        last, self._last = self._last, (at, sample, max(n_sharing, 1))
        if last is None:
            return
        began, before, n_bearing = last
        drawn = _drawn(before, sample, at - began)
        if drawn is not None:
            self._joules = (self._joules or 0.0) + drawn / n_bearing


def _drawn(before: GpuSample, now: GpuSample, seconds: float) -> float | None:
    """Return the joules between two samples: by the GPU's counter, else by the mean of its power."""
    counted = _difference(before.energy_j, now.energy_j)
    if counted is not None:
        return counted
    if before.power_w is None or now.power_w is None:
        return None
    return (before.power_w + now.power_w) / 2 * seconds


def _difference(before: float | None, now: float | None) -> float | None:
    if before is None or now is None or now < before:  # less: the driver was loaded anew, its counter began at 0
        return None
    return now - before
