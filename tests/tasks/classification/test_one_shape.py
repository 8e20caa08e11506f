"""Where another shape is dear, a model is shown batches of one size, and no figure knows of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.base.errors import ImageError
from tasks.classification.params import TrainParams
from tasks.classification.training.forward import predict
from tasks.classification.training.train import Trainer
from tasks.inference.predictor import Predictor, answers
from tasks.inference.sources import PendingImage
from tasks.training.batches import Batches
from tasks.training.pieces import OneShape

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(30)]


class Watched(nn.Module):
    """A small network that remembers the shapes it was shown in evaluation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        self.shapes = []

    def forward(self, x):
        if not self.training:
            self.shapes.append(tuple(x.shape))
        return self.layers(x)


@pytest.fixture
def dear(monkeypatch):
    """The CPU pads as a GPU does."""
    monkeypatch.setattr("tasks.training.pieces.shapes_cost", lambda device: True)


def batches(n, batch_size=8, **options):
    return Batches(lambda i: IMAGES[i], LABELS[:n], batch_size, **options)


def answers_to(n):
    model = Watched()
    found = list(predict(model, batches(n, join_last=False), CPU, "fp32"))
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found]), set(model.shapes)


@pytest.mark.parametrize("n", [30, 25, 17, 16, 5])
def test_answers_are_the_same_in_one_shape(n, request):
    bare, labels, _ = answers_to(n)
    request.getfixturevalue("dear")
    padded, same_labels, shapes = answers_to(n)
    assert shapes == {(min(n, 8), 3, 8, 8)}
    assert torch.equal(labels, same_labels)
    torch.testing.assert_close(padded, bare, rtol=0, atol=1e-6)


def epochs_of(n_val):
    model = Watched()
    params = TrainParams(num_epochs=2, batch_size=8, learning_rate=0.02, pretrained=False)
    trainer = Trainer(model, 3, params, CPU, "fp32", clock=lambda: 0.0)
    rows = [event for event in trainer.run(batches(30), batches(n_val, join_last=False)) if hasattr(event, "val_loss")]
    return [(m.val_loss, m.val_acc, m.macro_f1, m.mAP, m.precision, m.recall) for m in rows], set(model.shapes)


@pytest.mark.parametrize("n_val", [9, 20])
def test_a_validation_shows_one_shape_and_its_figures_count_no_padding(n_val, request):
    bare, shapes = epochs_of(n_val)
    assert len(shapes) == 2
    request.getfixturevalue("dear")
    padded, shapes = epochs_of(n_val)
    assert shapes == {(8, 3, 8, 8)}
    np.testing.assert_allclose(padded, bare, rtol=0, atol=1e-6)


def job(i):
    def pixels():
        if i % 5 == 3:
            raise ImageError("damaged")
        return IMAGES[i]

    return PendingImage(Path(f"{i}.png"), None, pixels)


def predicted():
    model = Watched().eval()
    rows = answers((job(i) for i in range(30)), Predictor(model, CPU, "fp32"), 8, 8)
    return np.stack([row.logits for batch in rows for row in batch if row.logits is not None]), set(model.shapes)


def test_a_prediction_pads_for_pictures_that_cannot_be_used(request):
    bare, shapes = predicted()
    assert len(shapes) == 3
    request.getfixturevalue("dear")
    padded, shapes = predicted()
    assert len(shapes) <= 2
    np.testing.assert_allclose(padded, bare, rtol=0, atol=1e-6)


def test_what_is_added_is_black_and_lies_in_memory_as_the_rest(dear):
    padded = OneShape(CPU)
    pictures = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    padded(pictures[:5])
    padded(pictures[:7])  # a larger one sets the size anew
    found = padded(pictures[:3])
    assert found.shape == (7, 3, 8, 8)
    assert found.stride() == pictures[:7].stride()
    assert not found[3:].any()
    assert torch.equal(found[:3], pictures[:3])


def test_a_cpu_computes_only_the_images_there_are():
    padded = OneShape(CPU)
    first, second = torch.zeros(4, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    assert padded(first) is first
    assert padded(second) is second
