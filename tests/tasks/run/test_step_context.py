"""Names that people gave are told from those that Prefect makes up."""

import logging
import signal

import pytest
from prefect.utilities.names import generate_slug

from tasks.base.errors import Interrupted, StopAsked, StorageError
from tasks.run.step_context import ended_by_signal, invented, stop_asked

LOG = logging.getLogger("test")


def test_every_name_that_prefect_makes_up_is_known_as_such():
    assert all(invented(generate_slug(2)) for _ in range(500))


def test_names_that_people_give_are_not():
    assert not any(invented(name) for name in ("demo", "resnet18-images", "my-run-3", "drones", "prepare-images", ""))


@pytest.mark.parametrize("raised", [StopAsked("saved"), StorageError("disk full"), ValueError("a child is gone")])
def test_what_a_run_ends_with_after_a_signal_is_the_signal(monkeypatch, raised):
    monkeypatch.setattr("tasks.run.step_context.asked", lambda: signal.SIGTERM)
    assert stop_asked()
    with pytest.raises(Interrupted), ended_by_signal(LOG):
        raise raised


@pytest.mark.parametrize("raised", [StopAsked("saved"), StorageError("disk full"), ValueError("x")])
def test_without_a_signal_it_stays_what_it_is(raised):
    assert not stop_asked()
    with pytest.raises(type(raised)), ended_by_signal(LOG):
        raise raised
