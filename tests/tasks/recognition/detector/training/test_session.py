import json

import pytest
import torch

from tasks.base.errors import ConfigError
from tasks.base.progress import Note
from tasks.recognition.detector.training.session import DetectorSession
from tasks.recognition.params import DetectorParams
from tasks.training.events import BatchDone, EpochDone
from tests.samples import after, run_until

SMALL = {
    "image_size": 64,
    "window": 0,
    "batch_size": 8,
    "num_epochs": 3,
    "precision": "fp32",
    "device": "cpu",
    "n_workers": 1,
}


@pytest.fixture
def session(tmp_path, dataset):
    """A function that makes the session of a folder; no time passes in it, so it never saves by the clock."""

    def make(folder="run", **values):
        params = DetectorParams(**{**SMALL, **values})
        return DetectorSession(
            dataset,
            tmp_path / folder,
            params,
            torch.device("cpu"),
            cache=tmp_path / "cache",
            clock_ms=lambda: 0,
        )

    return make


def weights(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


@pytest.mark.parametrize(
    "values",
    [
        {"mosaic": 0.5, "horizontal_flip": True, "window": 32},
        pytest.param(
            {"network": "fasterrcnn_mobilenet_v3_large_320_fpn", "num_epochs": 2, "ema_decay": 0, "batch_size": 12},
            marks=pytest.mark.long,
        ),
    ],
    ids=["fcos", "faster r-cnn"],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(session, tmp_path, values):
    whole = session("whole", **values)
    list(whole.run())
    for count in (1, 3):  # within the first epoch, and in a later one
        run_until(session("cut", **values), after(count, BatchDone))
        assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    resumed = session("cut", **values)
    notes = [event.text for event in resumed.run() if isinstance(event, Note)]
    assert any("goes on at epoch" in text for text in notes)
    for name in ("best.pt", "last.pt"):
        mine, theirs = weights(tmp_path / "cut", name), weights(tmp_path / "whole", name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    pairs = zip(whole.history, resumed.history, strict=True)
    assert all(a.metrics.map == b.metrics.map and a.metrics.losses == b.metrics.losses for a, b in pairs)
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_a_training_finds_the_parts_of_scenes_it_has_not_seen(session, tmp_path):
    done = session(num_epochs=16, learning_rate=4e-3, ema_decay=0.9, batch_size=6)
    events = list(done.run())
    assert done.history[-1].metrics.best_map > 0.3
    assert set(done.history[0].metrics.losses) == {"classification", "box", "quality"}
    assert set(done.history[-1].metrics.per_class) == {"disc", "square"}
    assert sum(isinstance(event, BatchDone) for event in events) == 16 * 4
    assert sum(isinstance(event, EpochDone) for event in events) == 16
    finished = json.loads((tmp_path / "run" / "finished.json").read_text())
    assert finished["best_map"] == done.history[-1].metrics.best_map
    assert json.loads((tmp_path / "run" / "config.json").read_text())["classes"] == ["disc", "square"]
    again = session()
    assert again.finished
    again.load_finished()
    assert again.history == done.history


def test_a_checkpoint_of_other_parameters_is_refused(session):
    run_until(session(), after(1, BatchDone))
    with pytest.raises(ConfigError, match="learning_rate"):
        list(session(learning_rate=1e-4).run())


def test_early_stopping_says_so(session):
    done = session(num_epochs=9, patience=1, learning_rate=1e-9)
    notes = [event.text for event in done.run() if isinstance(event, Note)]
    assert len(done.history) < 9
    assert any(text.startswith("stopped early") for text in notes)
