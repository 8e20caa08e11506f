"""The estimate of a training's checkpoints is near what they take, for every network that there is."""

import itertools
import typing

import cv2
import numpy as np
import pytest
import torch

from tasks.base.errors import StorageError
from tasks.base.progress import Note
from tasks.classification.models import build_model
from tasks.classification.params import Architecture, TrainParams
from tasks.classification.training.disk_need import classifier_need
from tasks.classification.training.session import TrainingSession
from tasks.housekeeping.removal import disk_usage

SMALL = {"model": "mobilenet_v3_small", "pretrained": False, "image_size": 32, "batch_size": 4, "precision": "fp32"}


@pytest.mark.parametrize("model", typing.get_args(Architecture))
def test_the_weights_of_every_network_are_known(model):
    with torch.device("meta"):
        weights = sum(tensor.nbytes for tensor in build_model(model, 30, 224).state_dict().values())
    plain = TrainParams(model=model, optimizer="sgd", momentum=0)
    assert classifier_need(plain).bytes == pytest.approx(4 * weights, rel=0.01)


@pytest.fixture
def session(tmp_path):
    """Return a function that makes a session on sixteen images."""
    for part, number, i in itertools.product(("train", "val"), (0, 1), range(4)):
        path = tmp_path / "data" / part / "ab"[number] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((32, 32, 3), 100 * number, np.uint8))

    def make(**values):
        params = TrainParams(**SMALL, device="cpu", n_workers=1, **values)
        folders = tmp_path / "data", tmp_path / "run" / "training"
        clock = itertools.count(0, 1000)  # a checkpoint at each batch
        cache, device = tmp_path / "cache", torch.device("cpu")
        return TrainingSession(*folders, params, device, cache=cache, clock_ms=lambda: next(clock))

    return make


@pytest.mark.parametrize("values", [{}, {"optimizer": "sgd"}, {"ema_decay": 0.9, "keep_every_epoch": True}])
def test_a_training_takes_no_more_than_was_said(session, values):
    training = session(num_epochs=3, checkpoint_every_s=1, **values)
    said, most = [], 0
    for event in training.run():
        said += [event.text] if isinstance(event, Note) else []
        most = max(most, disk_usage(training.folder))
    need = classifier_need(training.params)
    assert any("of disk for checkpoints" in text for text in said), said
    assert 0.3 < most / need.bytes < 1  # the moment in which files are there twice is not seen here


def test_a_training_that_does_not_fit_is_refused_before_its_first_batch(session, monkeypatch):
    monkeypatch.setenv("TRAINYARD_MIN_FREE", "99%")
    training = session(num_epochs=1)
    with pytest.raises(StorageError, match=r"need about \d+\.\d MB of disk for checkpoints, found .* free at"):
        list(training.run())
    assert not list(training.folder.glob("*.pt"))
