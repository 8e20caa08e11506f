"""Work is due a while after its last success."""

import pytest

from gpu_pools.periodic import Periodic


def test_work_that_failed_is_due_at_the_next_call():
    calls: list[float] = []
    now = [5.0]

    def work():
        calls.append(now[0])
        if len(calls) == 2:
            raise ValueError("away")

    periodic = Periodic(work, 3.0, lambda: now[0])
    for moment in (5.0, 6.0, 7.9):
        now[0] = moment
        periodic()
    now[0] = 8.0
    with pytest.raises(ValueError, match="away"):
        periodic()
    now[0] = 8.1
    periodic()
    now[0] = 11.0
    periodic()
    assert calls == [5.0, 8.0, 8.1]
