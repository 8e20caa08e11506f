"""An embedding that several processes train: what one leaves, and how it goes on with another number of them."""

import pytest
import torch

from tasks.base.progress import Note
from tasks.recognition.index.training.session import IndexSession
from tasks.recognition.params import IndexParams
from tasks.training.events import BatchDone
from tasks.training.parallel.ranks import ALONE, Ranks
from tests.samples import after
from tests.together import CPU, compute_together, handed_on

SIZE = 3
OPTIONS = {
    "image_size": 32,
    "dimension": 16,
    "batch_size": 41,  # 84 views: of the last batch, two views, one of three processes has none
    "num_epochs": 2,
    "optimizer": "sgd",
    "learning_rate": 1e-2,
    "precision": "fp32",
    "device": "cuda",
    "n_workers": 1,
}


def session(dataset, folder, **values) -> IndexSession:
    params = IndexParams(**{**OPTIONS, **values})
    return IndexSession(dataset, folder, params, CPU, cache=folder / "cache", clock_ms=lambda: 0)


def trained(dataset, folder, ranks: Ranks) -> tuple[list, dict[str, torch.Tensor]]:
    """Return the figures of the epochs, and the weights after them."""
    training = session(dataset, folder)
    torch.manual_seed(0)
    trainer, _ = training._trainer("fp32", fresh=True)
    trainer.join(ranks)
    epochs = [event for event in training._events(trainer) if not isinstance(event, BatchDone)]
    figures = [[e.train_loss, e.recall_1, e.recall_5, e.val_gap] for e in epochs]
    return figures, trainer.model.state_dict()


def take_part(ranks: Ranks, dataset, folder) -> None:
    figures, weights = trained(dataset, folder, ranks)
    if ranks.rank == SIZE - 1:  # all have them
        torch.save({"figures": figures, "weights": weights}, folder / "trained.pt")


def test_several_processes_train_as_one_does(dataset, tmp_path):
    compute_together(SIZE, take_part, dataset, tmp_path)
    together = torch.load(tmp_path / "trained.pt", weights_only=True)
    figures, weights = trained(dataset, tmp_path, ALONE)
    torch.testing.assert_close(torch.tensor(together["figures"]), torch.tensor(figures), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together["weights"], weights, rtol=1e-3, atol=1e-5)


def test_one_process_goes_on_where_two_have_stopped(dataset, tmp_path):
    alone = session(dataset, tmp_path / "alone")
    list(alone.run())
    last, seen = handed_on(
        lambda n: session(dataset, tmp_path / "shared", n_devices=n), [(2, after(1, BatchDone))], last=1
    )
    assert Note("trains in 2 processes, each on a share of every batch") in seen[0]
    for one, other in zip(alone.history, last.history, strict=True):
        assert other.metrics.train_loss == pytest.approx(one.metrics.train_loss, rel=1e-3)


def test_several_devices_are_refused_where_nothing_is_trained(tmp_path):
    with pytest.raises(ValueError, match="found 2 devices where nothing is trained, need one"):
        IndexParams(**OPTIONS, n_devices=2, train=False, weight_path=tmp_path)
