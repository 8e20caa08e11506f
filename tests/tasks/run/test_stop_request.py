"""A step that a signal has reached ends as interrupted, whatever it raises."""

import logging
import signal

import pytest

from tasks.base.errors import Interrupted, StopAsked, StorageError
from tasks.run.stop_request import ended_by_signal, stop_asked

LOG = logging.getLogger("test")


@pytest.mark.parametrize("raised", [StopAsked("saved"), StorageError("disk full"), ValueError("a child is gone")])
def test_what_a_run_ends_with_after_a_signal_is_the_signal(monkeypatch, raised):
    monkeypatch.setattr("tasks.run.stop_request.asked", lambda: signal.SIGTERM)
    assert stop_asked()
    with pytest.raises(Interrupted), ended_by_signal(LOG):
        raise raised


@pytest.mark.parametrize("raised", [StopAsked("saved"), StorageError("disk full"), ValueError("x")])
def test_without_a_signal_it_stays_what_it_is(raised):
    assert not stop_asked()
    with pytest.raises(type(raised)), ended_by_signal(LOG):
        raise raised
