"""An embedding that several processes train: what one leaves, and how it goes on with another number of them."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from tasks.base.progress import Note
from tasks.recognition.index.training.session import IndexSession
from tasks.recognition.params import IndexParams
from tasks.training.events import BatchDone
from tasks.training.parallel.ranks import ALONE, Ranks
from tasks.training.parallel.rendezvous import connect, open_store
from tests.samples import after, helpers, run_until

CPU, SIZE = torch.device("cpu"), 3
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


def take_part(rank: int, dataset, folder) -> None:
    torch.set_num_threads(1)
    figures, weights = trained(dataset, folder, connect(open_store(folder / "store", SIZE), Ranks(rank, SIZE, CPU)))
    if rank == SIZE - 1:  # all have them
        torch.save({"figures": figures, "weights": weights}, folder / "trained.pt")
    dist.destroy_process_group()


def test_several_processes_train_as_one_does(dataset, tmp_path):
    torch.multiprocessing.spawn(take_part, args=(dataset, tmp_path), nprocs=SIZE)
    together = torch.load(tmp_path / "trained.pt", weights_only=True)
    figures, weights = trained(dataset, tmp_path, ALONE)
    torch.testing.assert_close(torch.tensor(together["figures"]), torch.tensor(figures), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together["weights"], weights, rtol=1e-3, atol=1e-5)


def test_two_processes_leave_what_one_does_and_another_number_goes_on(dataset, tmp_path):
    alone = session(dataset, tmp_path / "alone")
    list(alone.run())
    folder = tmp_path / "shared"
    run_until(session(dataset, folder, n_devices=2), after(1, BatchDone))
    assert not helpers()
    run_until(session(dataset, folder), after(2, BatchDone))
    last = session(dataset, folder, n_devices=2)
    seen = list(last.run())
    assert Note("trains in 2 processes, each on a share of every batch") in seen
    assert not helpers()
    for one, other in zip(alone.history, last.history, strict=True):
        assert other.metrics.train_loss == pytest.approx(one.metrics.train_loss, rel=1e-3)


def test_several_devices_are_refused_where_nothing_is_trained(tmp_path):
    with pytest.raises(ValueError, match="found 2 devices where nothing is trained, need one"):
        IndexParams(**OPTIONS, n_devices=2, train=False, weight_path=tmp_path)
