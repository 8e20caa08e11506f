"""A run's part of a GPU's energy: by the GPU's counter, else by its power, shared by those who hold it."""

import pytest

from gpu_pools.placement.devices import GpuSample
from gpu_pools.slots.energy import EnergyMeter


def watt_hours(*looks):
    """Return what a meter has after looks: (second, joules counted, watts, holders)."""
    meter = EnergyMeter()
    for at, energy_j, power_w, n_sharing in looks:
        meter.add(at, GpuSample(50, power_w, energy_j, {}), n_sharing)
    return meter.wh


@pytest.mark.parametrize(
    ("looks", "joules"),
    [
        ([(0, 1000, None, 1), (1, 1300, None, 1), (2, 1700, None, 1)], 700),
        ([(0, 1000, 5, 1), (60, 8200, 5, 1)], 7200),  # the counter knows what happened between the looks
        ([(0, None, 100, 1), (2, None, 300, 1)], 400),  # no counter: the mean of the power
        ([(0, 9000, 100, 1), (2, 50, 100, 1), (3, 150, 100, 1)], 300),  # the driver was loaded anew
        ([(0, 0, None, 1), (1, 300, None, 2), (2, 600, None, 1)], 300 + 150),  # shared in the second second
        ([(0, 0, None, 0), (1, 300, None, 0)], 300),  # the lock is not seen: it is this run alone
    ],
)
def test_the_part_of_a_run(looks, joules):
    assert watt_hours(*looks) == pytest.approx(joules / 3600)


@pytest.mark.parametrize("looks", [[], [(0, 1000, 100, 1)], [(0, None, None, 1), (1, None, None, 1)]])
def test_what_cannot_be_told_is_none(looks):
    assert watt_hours(*looks) is None
