"""The training loop of an embedding: a generator of batches and epochs; its state can be saved at each."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.base.errors import TrainingError
from tasks.base.memory import memory_in_use
from tasks.base.progress import finish
from tasks.recognition.index.embedding import embedding, view_reader
from tasks.recognition.index.lookup import recalls
from tasks.recognition.index.networks import Embedder
from tasks.recognition.index.training.augment import augmented
from tasks.recognition.index.training.events import EpochMetrics
from tasks.recognition.index.training.losses import MarginHead
from tasks.recognition.index.views import Views, evenly
from tasks.recognition.params import IndexParams
from tasks.training.batches import Batches, ahead, batch_indices
from tasks.training.events import BatchDone
from tasks.training.late import Late, Pace
from tasks.training.optim import MovingAverage, build_optimizer, learning_rate
from tasks.training.pieces import Pieces, ran_out_of_memory
from tasks.training.precision import Precision, autocast
from tasks.training.rng_state import generator_states, set_generator_states

_MARGIN_RISE = 0.3
"""The share of the training over which the margin rises to its full size."""
_GALLERY = 32
"""Training views of each part that validation searches among: embedding all of them would cost half an epoch."""


class Recogniser(nn.Module):
    """The embedder, and the head that it is trained with."""

    def __init__(self, embedder: Embedder, head: MarginHead) -> None:
        super().__init__()
        self.embedder, self.head = embedder, head

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take (B, 3, S, S) uint8 and (B,) class numbers; give (B, n_classes) logits."""
        return self.head(self.embedder(images), labels)


class Trainer:
    """Everything a training consists of: weights, optimiser, position, sums of the running epoch, best so far.

    The order of the views and their alteration are functions of (seed, epoch, view), so the position is their state.

    Args:
        model: on `device`.
        params: as the run has them.
        device: where `model` is.
        precision: format of the forward pass.
        ema_copy: a second model of the same shape when `params.ema_decay` is above 0.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        model: Recogniser,
        params: IndexParams,
        device: torch.device,
        precision: Precision,
        *,
        ema_copy: Recogniser | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.params, self.device, self.precision = params, device, precision
        self.optimizer = build_optimizer(self.model, params)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.ema: MovingAverage | None = None
        if ema_copy is not None:
            ema_copy.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.ema = MovingAverage(self.model, ema_copy, params.ema_decay)
        self._clock = clock
        self.epoch, self.batch, self.step = 1, 0, 0
        self.pieces = Pieces(device)
        self.best, self.best_epoch = (-1.0, -2.0), 0  # recall@1, gap
        self.stopped = False
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, views
        self._seconds = 0.0
        self._late, self._pace = Late(device), Pace()
        self._notes: list[str] = []

    @property
    def graded_model(self) -> Embedder:
        """Return the embedder that is validated and kept: the moving average when there is one."""
        model = self.ema.model if self.ema else self.model
        assert isinstance(model, Recogniser)
        return model.embedder

    @property
    def done(self) -> bool:
        """Return whether all epochs are over, or the training stopped early."""
        return self.stopped or self.epoch > self.params.num_epochs

    def run(self, train: Views, val: Views, n_parts: int) -> Iterator[BatchDone | EpochMetrics]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Args:
            train: of the parts, and of shapes that are none under labels from `n_parts` on.
            val: of the parts.
            n_parts: how many parts there are.

        Raises:
            TrainingError: the loss is not finite, or one view does not fit into the GPU's memory.
        """
        gallery = train.chosen(train.labels < n_parts)
        gallery = gallery.chosen(evenly(gallery.labels, _GALLERY))
        while not self.done:
            started = self._clock()
            for done in self._train_epoch(self._batches(train)):
                self._seconds += self._clock() - started
                yield done
                started = self._clock()
            yield self._finish_epoch(gallery, val, started)

    def _batches(self, views: Views) -> Batches:
        params, epoch = self.params, self.epoch
        return Batches(
            lambda place: augmented(views.read(place), params, epoch, place),
            views.labels.tolist(),
            params.batch_size,
            shuffle=True,
            seed=params.seed,
            n_workers=params.n_workers,
            pin=self.device.type == "cuda",
        )

    def _train_epoch(self, train: Batches) -> Iterator[BatchDone]:
        n_batches = len(train)
        self.model.train()
        loaded = self._pace.waited(ahead(train.epoch(self.epoch, self.batch), self.device), self._clock)
        for number, (images, labels) in enumerate(loaded, self.batch + 1):
            # From the start, a margin would hold all vectors at one place: no direction is then better than another.
            self.model.head.share = min(1.0, self.step / (_MARGIN_RISE * self.params.num_epochs * n_batches))
            self._backward(images, labels)
            self._update(learning_rate(self.params, self.step, n_batches))
            self.batch = number
            if self.step % 50 == 0:  # on a GPU the sum is read later, when it is there, without waiting for it
                self._check_finite(self._late.exchange(self._sums[0]))
            yield BatchDone(self.epoch, self.batch, n_batches)
        self._check_finite()

    def _backward(self, images: Tensor, labels: Tensor) -> None:
        """Leave the gradient of the mean loss of a batch; cut it as the GPU's memory asks for it."""
        rng = generator_states(self.device)

        def attempt(n_pieces: int) -> Tensor:
            sums, size = torch.zeros_like(self._sums), -(-len(labels) // n_pieces)
            for piece in batch_indices(len(labels), size, range(len(labels))):
                part = slice(int(piece[0]), int(piece[-1]) + 1)  # a view: nothing is copied
                sums += self._backward_piece(images[part], labels[part], 1 / len(labels))
            return sums

        def start_over() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            set_generator_states(rng, self.device)
            self._notes.append(
                f"out of memory at {len(labels)} views: a batch now runs in {self.pieces.n} pieces, gradients added "
                "up; batch norm sees the pieces"
            )

        try:
            self._sums += self.pieces.run(attempt, len(labels), start_over)
        except RuntimeError as exc:
            if not ran_out_of_memory(exc):
                raise
            raise TrainingError(
                f"one view of {tuple(images.shape[1:])} does not fit into the memory of {self.device}: take a smaller "
                f"image_size or backbone ({exc})"
            ) from exc

    def _backward_piece(self, images: Tensor, labels: Tensor, scale: float) -> Tensor:
        """Backpropagate `scale` times the summed loss; return (2,): summed loss, views."""
        with autocast(self.device, self.precision):
            logits = self.model(images, labels)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        self.scaler.scale(loss * scale).backward()
        return torch.stack([loss.detach().double(), torch.full_like(loss, len(labels), dtype=torch.float64)])

    def _update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.params.clip_grad_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.step)
        self.step += 1

    def _check_finite(self, total: float | None = None) -> None:
        """Raise where the summed loss is not finite; None: as it stands now, which waits for a GPU."""
        loss = float(self._sums[0]) if total is None else total
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {self.epoch}, by batch {self.batch}, at learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g} in {self.precision}: need a finite one; lower the learning "
                "rate, clip the gradients or use fp32"
            )

    def _vectors(self, views: Views) -> np.ndarray:
        reader = view_reader(views, self.params.image_size)
        work = embedding(
            self.graded_model, reader, len(views), self.device, self.precision, n_workers=self.params.n_workers
        )
        return finish(work)

    def _finish_epoch(self, gallery: Views, val: Views, started: float) -> EpochMetrics:
        """Validate, compare with the best so far, and move on to the next epoch."""
        pace, self._pace = self._pace, Pace()
        found = recalls(self._vectors(gallery), gallery.labels, self._vectors(val), val.labels)
        is_best = self._compare(found.at_1, found.gap)
        loss, n_views = (float(value) for value in self._sums)
        metrics = EpochMetrics(
            epoch=self.epoch,
            total_epochs=self.params.num_epochs,
            train_loss=loss / n_views,
            recall_1=found.at_1,
            recall_5=found.at_5,
            val_gap=found.gap,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            best_recall_1=self.best[0],
            is_best=is_best,
            seconds=self._seconds + self._clock() - started,
            images_per_s=pace.images_per_s,
            wait_share=pace.wait_share,
            memory_mib=memory_in_use(self.device) / 2**20,
            notes=tuple(self._notes),
        )
        self._sums.zero_()
        self._notes.clear()
        self._seconds = 0.0
        self.epoch, self.batch = self.epoch + 1, 0
        return metrics

    def _compare(self, recall: float, gap: float) -> bool:
        """Return whether the epoch is the best so far; after too many that are not, the training stops."""
        is_best = (recall, gap) > self.best
        if is_best:
            self.best, self.best_epoch = (recall, gap), self.epoch
        elif self.params.patience and self.epoch - self.best_epoch >= self.params.patience:
            self.stopped = True
            self._notes.append(
                f"stopped early: no better epoch since {self.best_epoch} (patience {self.params.patience})"
            )
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain values, so that `weights_only` loading takes it.

        Raises:
            TrainingError: the loss is not finite; such a state is not worth keeping.
        """
        self._check_finite()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "n_pieces": self.pieces.n,
            "best": {"figures": list(self.best), "epoch": self.best_epoch},
            "stopped": self.stopped,
            "sums": self._sums,
            "seconds": self._seconds,
            "notes": list(self._notes),
            "rng": generator_states(self.device),
            "precision": self.precision,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave; the next batch is the one that would have come."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"])
        self.epoch, self.batch, self.step = (state["position"][key] for key in ("epoch", "batch", "step"))
        self.pieces.n = state["n_pieces"]
        recall, gap = state["best"]["figures"]
        self.best, self.best_epoch = (recall, gap), state["best"]["epoch"]
        self.stopped = state["stopped"]
        self._sums.copy_(state["sums"])
        self._seconds = state["seconds"]
        self._notes = list(state["notes"])
        set_generator_states(state["rng"], self.device)
