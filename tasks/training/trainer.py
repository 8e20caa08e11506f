"""The loop of every training: a generator of batches and epochs, whose state can be saved at each of them."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base.errors import TrainingError
from tasks.base.memory import memory_in_use
from tasks.training.batches import Batch, Batches, ahead
from tasks.training.early_stopping import EarlyStopping, Score
from tasks.training.events import BatchDone, EpochBasics
from tasks.training.late import Late, Pace
from tasks.training.optim import MovingAverage, build_optimizer, learning_rate
from tasks.training.parallel.ranks import ALONE, Ranks
from tasks.training.params import TrainingParams
from tasks.training.pieces import Pieces, ran_out_of_memory
from tasks.training.precision import Precision
from tasks.training.rng_state import generator_states, set_generator_states

N = TypeVar("N", bound=nn.Module)
P = TypeVar("P", bound=TrainingParams)
M = TypeVar("M", bound=EpochBasics)
R = TypeVar("R")
Group = Sequence[tuple[Tensor, Tensor]]
"""The batches of one optimiser step: images and what is known of each."""


class BaseTrainer(ABC, Generic[N, P, M]):
    """Everything a training consists of: weights, optimiser, position, sums of the running epoch, best so far.

    The order of images and how each is altered are functions of (seed, epoch, image), so the position is their whole
    state; what a network draws by itself comes from torch's generators, whose states are kept.

    Args:
        model: moved to the device.
        params: as the run has them.
        device: to train on.
        precision: number format of the forward pass.
        ema_copy: a second model of the same shape when `params.ema_decay` is above 0.
        accumulate: batches of an optimiser step.
        clock: seconds, monotonic.
    """

    IMAGE = "image"
    """What one row of a batch is called in messages."""
    SMALLER = "image_size or model"
    """What a person makes smaller where memory runs out."""
    PIECES_KEY = "n_pieces"
    """Under which checkpoints have the number of pieces."""

    def __init__(
        self,
        model: N,
        params: P,
        device: torch.device,
        precision: Precision,
        *,
        ema_copy: N | None = None,
        accumulate: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = _placed(model, device)
        self.params, self.device, self.precision = params, device, precision
        self.optimizer = build_optimizer(self.model, params)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.ema: MovingAverage | None = None
        if ema_copy is not None:
            self.ema = MovingAverage(self.model, _placed(ema_copy, device), params.ema_decay)
        self._accumulate, self._clock = accumulate, clock
        self.epoch, self.batch, self.step = 1, 0, 0
        self.pieces = Pieces(device)
        self.stopping = EarlyStopping(params.patience)
        self._seconds, self._started = 0.0, 0.0  # of the epoch before the last event; when work went on after it
        self._late, self._pace = Late(device), Pace()
        self._notes: list[str] = []
        self.ranks = ALONE
        self._forward: Callable[..., Any] = self.model
        self._reset_sums()

    def join(self, ranks: Ranks) -> None:
        """Compute a share of each batch from now on, other processes the rest; before the first batch, in all of them.

        What the first one's `state_dict` gives is the state of them all.
        """
        self.ranks = ranks
        if ranks.size > 1:
            self.pieces.n = 1  # of a batch that was cut for one device, this one has a part
            self._forward = ranks.wrapped(self.model, skips=self._skips)

    def _shuffled(self, read: Callable[[int], np.ndarray], labels: Sequence[int]) -> Batches:
        """Return the images to train on as batches, each epoch in another order, of which this process has its share.

        Args:
            read: gives the image of a place.
            labels: of each image.
        """
        return Batches(
            read,
            labels,
            self.params.batch_size,
            shuffle=True,
            seed=self.params.seed,
            n_workers=self.params.n_workers,
            pin=self.device.type == "cuda",
            mine=self.ranks.slices,
        )

    @property
    def _skips(self) -> bool:
        """Whether a batch may leave parts of the model out."""
        return False

    @property
    def average(self) -> N:
        """Return the moving average of the weights, or the weights where there is none."""
        return cast(N, self.ema.model) if self.ema else self.model

    @property
    def graded_model(self) -> nn.Module:
        """Return the model that is validated and kept."""
        return self.average

    @property
    def done(self) -> bool:
        """Return whether all epochs are over, or the training stopped early."""
        return self.stopping.stopped or self.epoch > self.params.num_epochs

    @abstractmethod
    def _backward(self, group: Group, sizes: Sequence[int], steps_per_epoch: int) -> None:
        """Leave the gradient of the mean loss of a group of batches, and add to the sums of the epoch.

        Args:
            group: the first one is batch number `self.batch` of the epoch.
            sizes: images of each batch in all processes together.
            steps_per_epoch: optimiser steps.
        """

    @abstractmethod
    def _summed_loss(self) -> Tensor:
        """Return the loss of this epoch so far, summed over images; a scalar on the device."""

    @abstractmethod
    def _sums_state(self) -> dict[str, Any]:
        """Return the sums of this epoch, for a checkpoint."""

    @abstractmethod
    def _load_sums(self, state: dict[str, Any]) -> None:
        """Take over what `_sums_state` gave."""

    @abstractmethod
    def _reset_sums(self) -> None:
        """Begin the sums of another epoch."""

    @abstractmethod
    def _best_state(self) -> dict[str, Any]:
        """Return the score of the best epoch, for a checkpoint."""

    @abstractmethod
    def _load_best(self, state: dict[str, Any]) -> Score:
        """Take over what `_best_state` gave; return the score."""

    def _epochs(self, batches: Callable[[], Batches], grade: Callable[[], M]) -> Iterator[BatchDone | M]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Args:
            batches: makes those of the running epoch.
            grade: validates, and returns the metrics of the running epoch.

        Raises:
            TrainingError: the loss is not finite, or one image does not fit into the GPU's memory.
        """
        while not self.done:
            self._started = self._clock()
            for done in self._train_epoch(batches()):
                self._seconds += self._clock() - self._started
                yield done
                self._started = self._clock()
            metrics = grade()
            self._next_epoch()
            yield metrics

    def _train_epoch(self, train: Batches) -> Iterator[BatchDone]:
        sizes, n_batches = train.sizes, len(train)
        steps_per_epoch = -(-n_batches // self._accumulate)
        self.model.train()
        group: list[tuple[Tensor, Tensor]] = []
        loaded = self._pace.waited(self._ahead(train.epoch(self.epoch, self.batch)), self._clock)
        for number, batch in enumerate(loaded, self.batch + 1):
            group.append(batch)
            if len(group) < self._accumulate and number < n_batches:
                continue
            self.ranks.reseed(self.params.seed, self.step)
            self._backward(group, sizes[self.batch : number], steps_per_epoch)
            group.clear()
            self._update(learning_rate(self.params, self.step, steps_per_epoch))
            self.batch = number
            if self.step % 50 == 0:  # on a GPU the sum is read later, when it is there, without waiting for it
                self._check_finite(self._late.exchange(self._summed_loss()))
            yield BatchDone(self.epoch, self.batch, n_batches)
        self._check_finite()

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches where they are needed."""
        return ahead(batches, self.device)

    def _in_pieces(self, attempt: Callable[[int], R], images: Tensor, n_images: int) -> R:
        """Return what an attempt with a number of pieces gives; cut further as the GPU's memory asks for it.

        Args:
            attempt: takes the number of pieces; leaves gradients.
            images: the first batch, (B, 3, S, S).
            n_images: of the largest batch.

        Raises:
            TrainingError: one image does not fit into the memory.
        """
        rng = generator_states(self.device)

        def start_over() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            set_generator_states(rng, self.device)
            self._notes.append(
                f"out of memory at {len(images)} {self.IMAGE}s: a batch now runs in {self.pieces.n} pieces, gradients "
                "added up; batch norm sees the pieces"
            )

        try:
            # Several processes compute in step: none can do its part again while the others are further.
            return self.pieces.run(attempt, n_images if self.ranks.size == 1 else 1, start_over)
        except RuntimeError as exc:
            if not ran_out_of_memory(exc):
                raise
            if self.ranks.size > 1:
                raise TrainingError(
                    f"{len(images)} {self.IMAGE}s of {tuple(images.shape[1:])} do not fit into the memory of one of "
                    f"{self.ranks.size} devices: take a smaller batch_size ({exc})"
                ) from exc
            raise TrainingError(
                f"one {self.IMAGE} of {tuple(images.shape[1:])} does not fit into the memory of {self.device}: take a "
                f"smaller {self.SMALLER} ({exc})"
            ) from exc

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
        loss = float(self._summed_loss()) if total is None else total
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {self.epoch}, by batch {self.batch}, at learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g} in {self.precision}: need a finite one; lower the learning "
                "rate, clip the gradients or use fp32"
            )

    def _is_best(self, score: Score) -> bool:
        """Return whether the running epoch is the best so far; after too many that are not, the training stops."""
        is_best = self.stopping.is_best(self.epoch, self.ranks.firsts(*score))
        if self.stopping.stopped:
            self._notes.append(self.stopping.reason)
        return is_best

    def _basics(self, train_loss: float, is_best: bool) -> dict[str, Any]:
        """Return the fields of `EpochBasics` for the running epoch, once it is validated."""
        pace = self._pace.images_per_s  # of this process, whose share is as large as that of each other
        return {
            "epoch": self.epoch,
            "total_epochs": self.params.num_epochs,
            "train_loss": train_loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "is_best": is_best,
            "seconds": self._seconds + self._clock() - self._started,
            "images_per_s": pace and pace * self.ranks.size,
            "wait_share": self._pace.wait_share,
            "memory_mib": memory_in_use(self.device) / 2**20,
            "notes": tuple(self._notes),
        }

    def _next_epoch(self) -> None:
        self._reset_sums()
        self._notes.clear()
        self._seconds, self._pace = 0.0, Pace()
        self.epoch, self.batch = self.epoch + 1, 0

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
            self.PIECES_KEY: self.pieces.n,
            "best": {**self._best_state(), "epoch": self.stopping.best_epoch},
            "stopped": self.stopping.stopped,
            **self._sums_state(),
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
        self.pieces.n = state[self.PIECES_KEY]
        best = state["best"]
        self.stopping = EarlyStopping(self.params.patience, self._load_best(best), best["epoch"], state["stopped"])
        self._load_sums(state)
        self._seconds = state["seconds"]
        self._notes = list(state["notes"])
        set_generator_states(state["rng"], self.device)


class TensorTrainer(BaseTrainer[N, P, M]):
    """A training whose sums are one tensor on the device: the loss first, then what else is counted."""

    N_SUMS: int

    def _summed_loss(self) -> Tensor:
        return self._sums[0]

    def _sums_state(self) -> dict[str, Any]:
        return {"sums": self._sums}

    def _load_sums(self, state: dict[str, Any]) -> None:
        self._sums.copy_(state["sums"])

    def _reset_sums(self) -> None:
        self._sums = torch.zeros(self.N_SUMS, dtype=torch.float64, device=self.device)


def _placed(model: N, device: torch.device) -> N:
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
