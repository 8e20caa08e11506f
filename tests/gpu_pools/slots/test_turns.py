"""A slot is left to whose turn it is, for some seconds."""

import pytest

from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Start, Wait
from gpu_pools.placement.queues import Queue
from gpu_pools.slots.turns import PASSED_OVER_S, PATIENCE_S, Turns
from gpu_pools.slots.waiters import Announcement

RUN = Waiting("a", "mine", Queue("cuda:0", "training"), 2, 1000.0, "anna@boxa")


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """The time, which a test moves."""
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    return [0.0]


def test_who_does_not_take_what_he_is_given_is_passed_over_for_a_while(clock):
    turns = Turns(("terminal",), lambda: clock[0])
    given = [Start("a", ("GPU-simulated-0",))]
    with Announcement("terminal") as notice:
        notice.say([RUN])
        for at in (0.0, PATIENCE_S):
            clock[0] = at
            assert turns.others(()) == [RUN]
            turns.note([RUN], given)
        clock[0] += 0.5
        turns.note([RUN], given)
        assert turns.others(()) == []
        clock[0] += PASSED_OVER_S
        assert turns.others(()) == [RUN]


def test_patience_begins_anew_where_a_slot_was_not_to_be_had_in_between(clock):
    turns = Turns(("terminal",), lambda: clock[0])
    with Announcement("terminal") as notice:
        notice.say([RUN])
        for decision in (Start("a", ("x",)), Wait("a", "taken"), Start("a", ("x",))):
            turns.note([RUN], [decision])
            clock[0] += 0.9 * PATIENCE_S
        assert turns.others(()) == [RUN]
