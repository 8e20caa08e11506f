"""A training of an embedding that is cut off goes on as if nothing had happened."""

import pytest
import torch

from tasks.base.errors import ConfigError, StopAsked
from tasks.recognition.index.training.session import IndexSession
from tasks.training.events import BatchDone, EpochDone
from tests.samples import finished


@pytest.fixture
def session(dataset, params, tmp_path):
    def make(name="run", stop_asked=lambda: False, data=dataset, **options):
        return IndexSession(
            data,
            tmp_path / name,
            params.model_copy(update={"num_epochs": 3, **options}),
            torch.device("cpu"),
            cache=tmp_path / "cache",
            clock_ms=lambda: 0,
            stop_asked=stop_asked,
        )

    return make


def run_until(session, n_batches):
    """Run a session that is asked to stop after so many batches."""
    done = []
    session._stop_asked = lambda: len(done) >= n_batches
    with pytest.raises(StopAsked):
        for event in session.run():
            if isinstance(event, BatchDone):
                done.append(event)
    return done


def weights(folder):
    return torch.load(folder / "best.pt", weights_only=True)


@pytest.mark.parametrize("n_batches", [2, 7])
def test_a_training_stopped_and_resumed_ends_with_the_same_weights(session, tmp_path, n_batches):
    whole = session("whole")
    list(whole.run())
    run_until(session("cut"), n_batches)
    torch.rand(7)  # the generators of a new process stand elsewhere
    again = session("cut")
    list(again.run())
    ours, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rows = [[(row.metrics.train_loss, row.metrics.val_gap) for row in each.history] for each in (whole, again)]
    assert rows[0] == rows[1]


def test_a_checkpoint_of_other_parameters_is_refused(session):
    run_until(session(), 2)
    with pytest.raises(ConfigError, match="margin"):
        list(session(margin=0.1).run())


def test_what_was_finished_is_read_again(session):
    first, again = finished(session)
    assert again.history == first.history


def test_a_training_without_a_better_epoch_stops_early(session):
    run = session(num_epochs=30, patience=1, learning_rate=1e-9, ema_decay=0.0)
    epochs = [event for event in run.run() if isinstance(event, EpochDone)]
    assert len(epochs) < 30


def test_features_of_weights_are_taken_as_they_are(session, tmp_path):
    list(session("trained").run())
    taken = session("taken", train=False, weight_path=tmp_path / "trained" / "best.pt")
    list(taken.run())
    assert taken.finished
    ours, theirs = weights(tmp_path / "taken"), weights(tmp_path / "trained")
    assert ours.keys() == {name for name in theirs if name.startswith("backbone.")}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
