"""How runs are called in short."""

import pytest

from gpu_pools.names import is_id, short_id

# The server gave these to runs of two schedules within the same second.
SCHEDULED = ("01a229d1-5b3e-7c41-9d0a-1f2e3d4c5b6a", "01a229d1-5b3f-7a02-8b1c-77aa00cc11ee")
SUBMITTED = "e1405601-d61b-44e5-a7e4-f953a408d3c8"


def test_the_short_id_of_a_scheduled_run_is_not_the_time():
    assert [short_id(each) for each in (*SCHEDULED, SUBMITTED)] == ["3d4c5b6a", "00cc11ee", "e1405601"]


@pytest.mark.parametrize(("part", "meant"), [("00cc11ee", True), ("01a2", True), ("cc11ee", False), ("11ff", False)])
def test_an_id_is_meant_by_its_beginning_or_its_last_eight_characters(part, meant):
    assert is_id(SCHEDULED[1], part) == meant
