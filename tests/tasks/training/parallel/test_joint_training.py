"""Real processes that train together end with what one process ends with: exact but for rounding, in float64."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from tasks.classification.params import TrainParams
from tasks.classification.training.train import Trainer
from tasks.training.batches import Batches
from tasks.training.events import BatchDone
from tasks.training.parallel.batch_norm import SharedBatchNorm, synchronise_batch_norm
from tasks.training.parallel.ranks import ALONE, Ranks
from tests.together import CPU, compute_together

N_IMAGES, SIZE = 22, 3  # of the last batch, two images, one of three processes has none
OPTIONS = {
    "device": "cuda",
    "batch_size": 10,
    "num_epochs": 2,
    "precision": "fp32",
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "accumulate": 2,
    "ema_decay": 0.9,
    "clip_grad_norm": 0.5,
    "horizontal_flip": True,
    "class_weights": "balanced",
    "n_workers": 1,
}


def network() -> nn.Module:
    torch.manual_seed(0)
    body = [
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.SiLU(),
    ]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).double()


def batches(**options) -> Batches:
    images = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 16, 16, 3), dtype=np.uint8)
    return Batches(images.__getitem__, [index % 3 for index in range(N_IMAGES)], 10, n_workers=1, **options)


def trained(ranks: Ranks) -> tuple[list, dict[str, torch.Tensor]]:
    """Return the epochs and the averaged weights of a training in float64."""
    trainer = Trainer(network(), 3, TrainParams(**OPTIONS), CPU, "fp32", ema_copy=network())
    normalise = trainer._normalise
    trainer._normalise = lambda images: normalise(images).double()
    trainer.join(ranks)
    val = batches(join_last=False, mine=ranks.whole_batches)
    model, forward = trainer.graded_model, trainer.graded_model.forward
    model.forward = lambda images: forward(images.double())
    train = batches(shuffle=True, mine=ranks.slices)
    epochs = [event for event in trainer.run(train, val) if not isinstance(event, BatchDone)]
    del model.forward
    return epochs, {name: value.clone() for name, value in trainer.model.state_dict().items()}


def take_part(ranks: Ranks, folder: Path) -> None:
    epochs, weights = trained(ranks)
    if ranks.rank == SIZE - 1:  # all have them
        torch.save({"epochs": [vars_of(epoch) for epoch in epochs], "weights": weights}, folder / "trained.pt")
    check_batch_norm(ranks)


def vars_of(epoch) -> dict[str, float]:
    names = ("train_loss", "train_acc", "val_loss", "val_acc", "mAP", "best_acc")
    return {name: float(getattr(epoch, name)) for name in names}


def check_batch_norm(ranks: Ranks) -> None:
    """Compare with torch's own on the whole batch: of images, of rows, and where one process has nothing."""
    generator = torch.Generator().manual_seed(1)
    for own, shape in (
        (nn.BatchNorm2d(4), (5, 4, 3, 2)),
        (nn.BatchNorm1d(4), (6, 4)),
        (nn.BatchNorm2d(4), (1, 4, 3, 3)),
    ):
        whole, slope = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        expected = nn.Sequential(own.double())
        shared = copy.deepcopy(expected)
        synchronise_batch_norm(shared, ranks.size)
        assert isinstance(shared[0], SharedBatchNorm)
        part = slice(*ranks.bounds(shape[0]))
        x, y = whole.clone().requires_grad_(), whole[part].clone().requires_grad_()
        (expected(x) * slope).sum().backward()
        (shared(y) * slope[part]).sum().backward()
        torch.testing.assert_close(y.grad, x.grad[part], rtol=1e-10, atol=1e-12)
        for one, other in zip(expected.parameters(), shared.parameters(), strict=True):
            dist.all_reduce(other.grad)
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-12)
        assert expected.state_dict().keys() == shared.state_dict().keys()
        torch.testing.assert_close(shared.state_dict(), expected.state_dict(), rtol=1e-10, atol=1e-12)


def test_several_processes_train_as_one_does(tmp_path):
    compute_together(SIZE, take_part, tmp_path)
    together = torch.load(tmp_path / "trained.pt", weights_only=True)
    epochs, weights = trained(ALONE)
    for one, other in zip(map(vars_of, epochs), together["epochs"], strict=True):
        assert other == pytest.approx(one, rel=1e-6)  # logits become float32 before the loss
    torch.testing.assert_close(together["weights"], weights, rtol=1e-6, atol=1e-8)
