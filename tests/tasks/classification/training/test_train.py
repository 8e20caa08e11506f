"""The training loop on toy tensors: resuming, halving, stopping, and what each option does."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tasks.base.errors import TrainingError
from tasks.classification.params import TrainParams
from tasks.classification.training.events import EpochMetrics
from tasks.classification.training.forward import predict
from tasks.classification.training.train import Trainer
from tasks.training.batches import Batches
from tasks.training.events import BatchDone

CPU = torch.device("cpu")
N_CLASSES = 3


def toy_images(n: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    labels = [i % N_CLASSES for i in range(n)]
    images = rng.integers(0, 120, (n, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., label] += 60
    return images, labels


def toy_batches(n: int = 30, batch_size: int = 8, *, shuffle: bool = True, seed: int = 0) -> Batches:
    images, labels = toy_images(n, seed)
    return Batches(lambda i: images[i], labels, batch_size, shuffle=shuffle, seed=3)


def toy_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, N_CLASSES),
    )


def toy_params(**values) -> TrainParams:
    return TrainParams(**{"num_epochs": 3, "batch_size": 8, "learning_rate": 0.02, "pretrained": False, **values})


EVERYTHING = {
    "ema_decay": 0.9,
    "mixup": 0.4,
    "accumulate": 2,
    "horizontal_flip": True,
    "clip_grad_norm": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "schedule": "cosine",
    "warmup_epochs": 1,
    "optimizer": "adamw",
    "weight_decay": 0.01,
}


def toy_trainer(params: TrainParams, model: nn.Module | None = None) -> Trainer:
    ema_copy = toy_model() if params.ema_decay else None
    model = model or toy_model()
    ticks = itertools.count()
    torch.manual_seed(params.seed)
    return Trainer(model, N_CLASSES, params, CPU, "fp32", ema_copy=ema_copy, clock=lambda: next(ticks))


def run(trainer: Trainer) -> list[BatchDone | EpochMetrics]:
    return list(trainer.run(toy_batches(), toy_batches(9, shuffle=False, seed=5)))


def epochs(events) -> list[EpochMetrics]:
    timed = {"seconds": 0, "images_per_s": None, "wait_share": None, "memory_mib": None}
    return [replace(e, **timed) for e in events if isinstance(e, EpochMetrics)]


def through_disk(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for (name, left), right in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def test_same_seed_gives_the_same_epochs_and_weights():
    first = toy_trainer(toy_params(**EVERYTHING))
    first_epochs = epochs(run(first))
    second = toy_trainer(toy_params(**EVERYTHING))
    assert epochs(run(second)) == first_epochs
    assert_same_weights(first.graded_model, second.graded_model)


def test_another_seed_gives_other_weights():
    first, second = toy_trainer(toy_params(**EVERYTHING)), toy_trainer(toy_params(**EVERYTHING, seed=1))
    run(first), run(second)
    assert not torch.equal(next(first.model.parameters()), next(second.model.parameters()))


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_training_cut_at_any_yield_ends_with_the_same_weights(options):
    whole = toy_trainer(toy_params(**options))
    expected = run(whole)
    for cut in range(1, len(expected)):
        before = toy_trainer(toy_params(**options))
        events = before.run(toy_batches(), toy_batches(9, shuffle=False, seed=5))
        seen = list(itertools.islice(events, cut))
        state = through_disk(before.state_dict())
        after = toy_trainer(toy_params(**options))
        torch.rand(7)  # the generators of a new process stand elsewhere
        after.load_state_dict(state)
        seen += run(after)
        assert epochs(seen) == epochs(expected)
        assert [e for e in seen if isinstance(e, BatchDone)] == [e for e in expected if isinstance(e, BatchDone)]
        assert_same_weights(after.model, whole.model)
        assert_same_weights(after.graded_model, whole.graded_model)


def test_it_learns():
    last = epochs(run(toy_trainer(toy_params(num_epochs=12))))[-1]
    assert last.best_acc == 1.0
    assert last.val_loss < 0.8


def test_every_epoch_has_its_metrics_and_the_best_is_the_highest_so_far():
    found = epochs(run(toy_trainer(toy_params(num_epochs=6))))
    assert [e.epoch for e in found] == [1, 2, 3, 4, 5, 6]
    assert [e.best_acc for e in found] == list(itertools.accumulate((e.val_acc for e in found), max))
    assert found[0].is_best
    assert all(e.top1_acc == e.val_acc and e.top5_acc is None for e in found)


def test_patience_stops_and_says_so():
    # A learning rate that changes nothing: no epoch after the first is better.
    found = epochs(run(toy_trainer(toy_params(num_epochs=50, learning_rate=1e-30, optimizer="sgd", patience=2))))
    assert len(found) < 50
    assert "no better epoch since" in found[-1].notes[-1]


class Hungry(nn.Module):
    """Runs out of memory on more than `room` images, as a GPU does."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room

    def forward(self, x):
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError(f"tried {len(x)} images")
        return self.inner(x)


def test_a_batch_that_does_not_fit_is_halved_and_said_so():
    found = run(toy_trainer(toy_params(), Hungry(toy_model(), room=3)))
    first = next(e for e in found if isinstance(e, EpochMetrics))
    assert "2 pieces" in first.notes[0]
    assert "4 pieces" in first.notes[1]
    assert len(epochs(found)) == 3


def test_halves_give_the_gradient_of_the_whole():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, N_CLASSES))
    whole = toy_trainer(toy_params(optimizer="sgd"), linear)
    torch.manual_seed(0)
    same = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, N_CLASSES))
    cut = toy_trainer(toy_params(optimizer="sgd"), Hungry(same, room=2))
    run(whole), run(cut)
    torch.testing.assert_close(cut.model.inner[1].weight, whole.model[1].weight, rtol=1e-4, atol=1e-6)


class TooSmall(Hungry):
    """Cannot train on one image, as batch norm over a single pixel."""

    def forward(self, x):
        if self.training and len(x) == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        return super().forward(x)


@pytest.mark.parametrize("n_images", [13, 11, 10, 9])
def test_pieces_never_leave_one_image_alone(n_images):
    # Pieces of 4 or 5; last batches of 5, 3, 2, and one of 9.
    trainer = toy_trainer(toy_params(), TooSmall(toy_model(), room=5))
    list(trainer.run(toy_batches(n_images), toy_batches(9, shuffle=False, seed=5)))
    assert trainer.pieces.n == 2


def test_one_image_that_does_not_fit_is_an_error():
    with pytest.raises(TrainingError, match="one image of"):
        run(toy_trainer(toy_params(), Hungry(toy_model(), room=0)))


def test_a_loss_that_is_not_finite_is_an_error_that_names_epoch_and_rate():
    trainer = toy_trainer(toy_params())
    with torch.no_grad():
        trainer.model[-1].weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, .*learning rate"):
        run(trainer)
    with pytest.raises(TrainingError, match="nan"):
        trainer.state_dict()


def test_the_moving_average_is_what_is_validated_and_differs_from_the_weights():
    trainer = toy_trainer(toy_params(ema_decay=0.99))
    run(trainer)
    assert trainer.graded_model is not trainer.model
    assert not torch.equal(trainer.graded_model[0].weight, trainer.model[0].weight)


def test_bf16_trains_too():
    params = toy_params(num_epochs=8)
    torch.manual_seed(0)
    trainer = Trainer(toy_model(), N_CLASSES, params, CPU, "bf16")
    assert epochs(run(trainer))[-1].best_acc > 0.6


def test_accumulating_equals_the_larger_batch():
    def linear():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, N_CLASSES))

    def fit(batch_size, accumulate):
        images, labels = toy_images(32)
        trainer = toy_trainer(toy_params(optimizer="sgd", accumulate=accumulate, batch_size=batch_size), linear())
        train = Batches(lambda i: images[i], labels, batch_size)
        list(trainer.run(train, toy_batches(9, shuffle=False)))
        return trainer.model[1].weight

    torch.testing.assert_close(fit(4, 2), fit(8, 1), rtol=1e-4, atol=1e-6)


def test_running_out_of_memory_while_accumulating_starts_the_group_again():
    def linear():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, N_CLASSES))

    whole = toy_trainer(toy_params(optimizer="sgd", accumulate=3), linear())
    cut = toy_trainer(toy_params(optimizer="sgd", accumulate=3), Hungry(linear(), room=5))
    run(whole), run(cut)
    torch.testing.assert_close(cut.model.inner[1].weight, whole.model[1].weight, rtol=1e-4, atol=1e-6)


def test_the_moving_average_lies_in_memory_as_the_weights_do():
    trainer = toy_trainer(toy_params(ema_decay=0.9))
    strides = [[p.stride() for p in model.parameters()] for model in (trainer.model, trainer.graded_model)]
    assert strides[0] == strides[1]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own parts
def test_a_compiled_training_cut_before_the_smaller_batch_ends_with_the_same_weights():
    options = {"compile": True, "num_epochs": 2}
    whole = toy_trainer(toy_params(**options))
    run(whole)
    before = toy_trainer(toy_params(**options))
    list(itertools.islice(before.run(toy_batches(), toy_batches(9, shuffle=False, seed=5)), 3))
    state = through_disk(before.state_dict())
    torch.compiler.reset()  # as in a new process
    after = toy_trainer(toy_params(**options))
    after.load_state_dict(state)
    run(after)
    assert_same_weights(after.model, whole.model)


def test_predicting_runs_in_pieces_when_memory_is_short():
    class Small(Hungry):
        def forward(self, x):
            if len(x) > self.room:
                raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
            return self.inner(x)

    model, batches = toy_model(), toy_batches(9, shuffle=False)
    whole = torch.cat([logits for logits, _ in predict(model, batches, CPU, "fp32")])
    pieces = torch.cat([logits for logits, _ in predict(Small(model, room=3), batches, CPU, "fp32")])
    torch.testing.assert_close(pieces, whole)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        list(predict(Small(model, room=0), batches, CPU, "fp32"))
